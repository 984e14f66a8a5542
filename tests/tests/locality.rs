//! No byte of a tenant is on a disk outside its placement.

use maia_tests::locality::search;

#[tokio::test]
async fn no_byte_of_a_tenant_is_on_another_regions_disk() {
    let found = search().await;
    println!("{}", found.told());
    assert!(found.holds(), "{found:#?}");
}
