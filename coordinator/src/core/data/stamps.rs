//! Between stored resources and the registers on which conflicts are decided.

use std::collections::BTreeMap;

use maia_common::wire::record as wire;

use crate::core::conflict::{Content, Register, Stamp};
use crate::core::json::Json;
use crate::core::record::Hlc;

pub(super) fn to_wire(stamp: &Stamp) -> wire::Stamp {
    wire::Stamp {
        hlc: stamp.hlc.get(),
        region: stamp.region.clone(),
    }
}

pub(super) fn from_wire(stamp: Option<&wire::Stamp>) -> Stamp {
    stamp.map_or_else(Stamp::default, |stamp| Stamp {
        hlc: Hlc::from_raw(stamp.hlc),
        region: stamp.region.clone(),
    })
}

/// The stamp of a resource's last change.
pub(super) fn of(resource: &wire::Resource) -> Stamp {
    Stamp {
        hlc: Hlc::from_raw(resource.hlc),
        region: resource.origin_region.clone(),
    }
}

fn content_of(resource: &wire::Resource) -> Content {
    Content {
        data: resource.data.clone(),
        content_type: resource.content_type.clone(),
    }
}

/// What is there as one thing that was written at its last change.
pub(super) fn whole(resource: Option<&wire::Resource>, grave: Option<&Stamp>) -> Register {
    match (resource, grave) {
        (Some(resource), _) => Register::replaced(of(resource), Some(content_of(resource))),
        (None, Some(stamp)) => Register::replaced(stamp.clone(), None),
        (None, None) => Register::default(),
    }
}

/// What is there, with the stamps of its fields where they are kept. What lies under a field that was
/// written above it is not stored, since nobody will ever see it.
pub(super) fn by_field(resource: Option<&wire::Resource>, grave: Option<&Stamp>) -> Register {
    let Some((resource, stamps)) = resource.and_then(|r| Some((r, r.fields.as_ref()?))) else {
        return whole(resource, grave);
    };
    let Some(object) = &stamps.object else {
        let stamp = from_wire(stamps.whole.as_ref());
        return Register::replaced(stamp, Some(content_of(resource)));
    };
    let mut seen = match Json::parse(&resource.data) {
        Some(Json::Object(seen)) => seen,
        _ => BTreeMap::new(),
    };
    let mut fields = BTreeMap::new();
    for field in &stamps.fields {
        let value = seen.remove(&field.name);
        let value = value
            .filter(|_| !field.removed)
            .map(|value| value.to_string());
        fields.insert(field.name.clone(), (from_wire(field.stamp.as_ref()), value));
    }
    let below = (!seen.is_empty()).then(|| Content {
        data: Json::Object(seen).to_string().into(),
        content_type: resource.content_type.clone(),
    });
    Register {
        whole: stamps
            .whole
            .as_ref()
            .map(|stamp| (from_wire(Some(stamp)), below)),
        object: Some((from_wire(Some(object)), resource.content_type.clone())),
        fields,
    }
}

/// What is stored with a resource to make the register again.
pub(super) fn stored(register: &Register) -> wire::FieldStamps {
    let fields = register
        .fields
        .iter()
        .map(|(name, (stamp, value))| wire::FieldStamp {
            name: name.clone(),
            stamp: Some(to_wire(stamp)),
            removed: value.is_none(),
        });
    wire::FieldStamps {
        whole: register.whole.as_ref().map(|(stamp, _)| to_wire(stamp)),
        object: register.object.as_ref().map(|(stamp, _)| to_wire(stamp)),
        fields: fields.collect(),
    }
}
