//! The feed on gRPC's wire, by hand: answers are ready frames, handed to HTTP/2 as they are, so that
//! a message for a thousand proxies is encoded once and copied never. What a message means is the
//! service's; this only brings bytes, and lets no caller speak as another proxy than it is.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, header};
use hyper::body::{Body, Frame};
use maia_common::ids::ProxyId;
use maia_common::rpc::{Caller, Party};
use maia_common::wire::feed as wire;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::StreamExt;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder};
use tonic::{Status, Streaming};

use super::message::framed;
use super::service::FeedService;

/// What proxies send is small: a Hello, acknowledgements, a lookup with a placement.
const MAX_UP_BYTES: usize = 64 << 10;
const UP_BUFFER_BYTES: usize = 512;

type Request = http::Request<tonic::body::Body>;
type Response = http::Response<tonic::body::Body>;

/// The service as the listener takes it. Cheap to clone.
#[derive(Clone)]
pub struct FeedServer(Arc<FeedService>);

impl FeedServer {
    /// The service on the wire.
    #[must_use]
    pub fn new(service: FeedService) -> Self {
        Self(Arc::new(service))
    }
}

impl tonic::server::NamedService for FeedServer {
    const NAME: &'static str = wire::feed_server::SERVICE_NAME;
}

impl tower::Service<Request> for FeedServer {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let service = Arc::clone(&self.0);
        Box::pin(async move {
            let answer = answer(Arc::clone(&service), request);
            Ok(match service.aside.run(answer).await {
                Ok(frames) => response(frames),
                Err(status) => status.into_http(),
            })
        })
    }
}

fn response(frames: Frames) -> Response {
    let mut response = http::Response::new(tonic::body::Body::new(frames));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, grpc);
    response
}

async fn answer(service: Arc<FeedService>, request: Request) -> Result<Frames, Status> {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default();
    let caller = Caller::of(request.extensions())?.clone();
    match method {
        "Subscribe" => {
            let ups = messages::<wire::Up>(request).map(move |up| match up?.kind {
                Some(wire::up::Kind::Hello(hello)) => {
                    speaks_for(&caller, &hello.proxy)?;
                    let kind = Some(wire::up::Kind::Hello(hello));
                    Ok(wire::Up { kind })
                }
                kind => Ok(wire::Up { kind }),
            });
            service.subscribe(ups).await
        }
        "Lookup" => {
            let lookups = messages::<wire::LookupRequest>(request).map(move |lookup| {
                let lookup = lookup?;
                speaks_for(&caller, &lookup.proxy)?;
                Ok(lookup)
            });
            let answer = service.lookup(lookups).await?;
            Ok(Frames::of(framed(&answer)))
        }
        _ => Err(Status::unimplemented("the feed has no such method")),
    }
}

fn speaks_for(caller: &Caller, proxy: &str) -> Result<(), Status> {
    let proxy = ProxyId::new(proxy).map_err(|e| Status::invalid_argument(e.to_string()))?;
    caller.speaks_for(&Party::Proxy(proxy))
}

fn messages<M: Message + Default + 'static>(request: Request) -> Streaming<M> {
    let decoder = Decode(PhantomData);
    Streaming::new_request(decoder, request.into_body(), None, Some(MAX_UP_BYTES))
}

struct Decode<M>(PhantomData<fn() -> M>);

impl<M: Message + Default> Decoder for Decode<M> {
    type Item = M;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<M>, Status> {
        let message = M::decode(source);
        message
            .map(Some)
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(UP_BUFFER_BYTES, UP_BUFFER_BYTES)
    }
}

/// An answer's body: frames as they come, then the status.
pub(super) struct Frames {
    inbox: mpsc::Receiver<Bytes>,
    /// Set before the inbox ends; else all went well.
    status: Arc<OnceLock<Status>>,
    ended: bool,
    /// Counts the answer for as long as its connection keeps it, read or not.
    _place: Option<OwnedSemaphorePermit>,
}

impl Frames {
    /// What comes through `inbox`, then `status`.
    pub(super) fn new(
        inbox: mpsc::Receiver<Bytes>,
        status: Arc<OnceLock<Status>>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            inbox,
            status,
            ended: false,
            _place: Some(place),
        }
    }

    fn of(frame: Bytes) -> Self {
        let (outbox, inbox) = mpsc::channel(1);
        drop(outbox.try_send(frame));
        Self {
            inbox,
            status: Arc::default(),
            ended: false,
            _place: None,
        }
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(frame) = ready!(self.inbox.poll_recv(context)) {
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        self.ended = true;
        let status = self.status.get().cloned();
        let mut trailers = HeaderMap::new();
        let status = status.unwrap_or_else(|| Status::new(tonic::Code::Ok, ""));
        Poll::Ready(Some(
            status
                .add_header(&mut trailers)
                .map(|()| Frame::trailers(trailers)),
        ))
    }
}
