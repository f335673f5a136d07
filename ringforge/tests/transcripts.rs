//! Transcripts.
#[path = "support.rs"]
mod support;

#[tokio::test]
async fn smoke() {
    let mut server = support::Server::plain();
    let (mut a, w) = support::Client::enter(server.ws_url(), server.first_key(), "a", serde_json::json!({})).await;
    println!("{w}");
    println!("{}", a.ask(&serde_json::json!({"type":"presence","action":"roster","ref":1})).await);
    drop(a);
    assert_eq!(server.terminate(), Some(0));
    server.restart();
    server.kill9();
}
