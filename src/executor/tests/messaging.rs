//! Components that were built for wasmCloud: messages in, messages out.

use super::*;

fn rig(change: impl FnOnce(&mut Definition)) -> Rig {
    Rig::with(guest("relay.component.wasm"), change)
}

#[tokio::test]
async fn a_component_built_for_wasmcloud_handles_messages_as_it_is() {
    let rig = rig(|definition| definition.allow.publish = vec!["orders.>".to_owned()]);
    assert_eq!(rig.version.module.abi, Abi::Messaging);
    let attempt = rig.call("publish orders.new one\ntell").await;
    assert_eq!(attempt.result.unwrap().body, r#"subject Some("_INBOX.7")"#, "what goes to reply-to is the answer");
    let [message] = &attempt.effects.messages[..] else { panic!("{:?}", attempt.effects) };
    assert_eq!((&*message.subject, &message.payload[..]), ("orders.new", &b"one"[..]));
    assert_eq!(message.headers.get_str("tripline-depth"), Some("1"), "it carries its lineage");
    let ops = attempt.detail.unwrap().host_ops;
    let ops: Vec<(&str, &str)> = ops.iter().map(|op| (op.op.as_ref(), op.target.as_str())).collect();
    assert_eq!(ops, [("publish", "orders.new"), ("reply", "_INBOX.7")]);
    // Who waits for nothing is answered nothing; any event is a message.
    let mut tick = event(Kind::Cron, "publish orders.tick now");
    tick.attributes.clear();
    let attempt = rig.attempt(&tick).await;
    assert_eq!((attempt.result.unwrap().body, attempt.effects.messages.len()), (Bytes::new(), 1));
    let mut request = event(Kind::Http, "tell");
    request.subject = "/orders/7".into();
    assert_eq!(rig.attempt(&request).await.result.unwrap().body, r#"/orders/7 Some("_INBOX.7")"#);
}

#[tokio::test]
async fn what_a_component_built_for_wasmcloud_may_not_do_it_is_told() {
    let rig = rig(|definition| definition.allow.publish = vec!["orders.>".to_owned()]);
    for (said, told) in [
        ("publish orders.new one\npublish mail.new two", "denied: the definition does not grant \"mail.new\""),
        ("request orders.new one", "denied: wasmcloud:messaging/consumer.request is not offered"),
        ("ask orders.new one", "denied: a message that is published here has no reply-to"),
        ("reply one\nreply two", "denied: the message has been answered"),
        ("publish orders..new one", "invalid subject"),
        ("shout", "\"shout\" is not known"),
    ] {
        let attempt = rig.call(said).await;
        let failure = attempt.result.unwrap_err();
        assert_eq!((failure.code, failure.retryable), (FailureCode::GuestError, true), "{said}");
        assert!(failure.message.starts_with(told), "{said}: {failure}");
        assert!(attempt.effects.is_empty(), "{said}: nothing of a failed attempt is sent");
    }
}

#[tokio::test]
async fn a_typed_component_may_publish_by_wasmclouds_interface_alone() {
    let text = std::fs::read_to_string(format!("{}/tests/guests/steer.component.wat", env!("CARGO_MANIFEST_DIR")));
    let import = r#"(component
        (import "wasmcloud:messaging/types@0.2.0" (instance $broker
            (type $shape (record (field "subject" string) (field "body" (list u8)) (field "reply-to" (option string))))
            (export "broker-message" (type (eq $shape)))))
        (alias export $broker "broker-message" (type $message))
        (import "wasmcloud:messaging/consumer@0.2.0" (instance
            (alias outer 1 $message (type $outer))
            (export "broker-message" (type $own (eq $outer)))
            (export "publish" (func (param "msg" $own) (result (result (error string)))))))
        "#;
    let rig = Rig::new(wat::parse_str(text.unwrap().replacen("(component\n", import, 1)).unwrap().into());
    assert_eq!(rig.call("hello").await.result.unwrap().body, "hello");
}

#[tokio::test]
async fn a_handler_of_another_shape_is_refused_before_it_runs() {
    let odd = wat::parse_str(
        r#"(component
            (core module $m (func (export "handle")))
            (core instance $i (instantiate $m))
            (func $handle (canon lift (core func $i "handle")))
            (instance $handler (export "handle-message" (func $handle)))
            (export "wasmcloud:messaging/handler@0.2.0" (instance $handler)))"#,
    );
    let rig = Rig::new(odd.unwrap().into());
    let error = rig.executor.prepare(&rig.version).await.unwrap_err().to_string();
    assert!(error.contains("func(msg: broker-message)"), "{error}");
}
