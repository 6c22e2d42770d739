//! Secrets at the host's side: grants, and where their values are not seen.

use super::super::bindings::tripline::function::secrets::{Error, Host};
use super::*;
use crate::executor::Services;
use crate::executor::guest::Served;
use crate::secrets::{SecretSource, Secrets};

/// A guest that is granted `API_KEY` and `GONE`, on an engine that has `API_KEY` and `OTHER`.
fn guest_with_secrets() -> (Guest, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let source = |name: &str, value: &str| {
        let file = directory.path().join(name);
        std::fs::write(&file, value).unwrap();
        (name.to_owned(), SecretSource::File(file))
    };
    let secrets = Secrets::new([source("API_KEY", "hunter2\n"), source("OTHER", "swordfish")].into());
    let services = Arc::new(Services { secrets: Arc::new(secrets), ..Services::default() });
    let grant = |definition: &mut Definition| {
        definition.allow.secrets = vec!["API_KEY".to_owned(), "GONE".to_owned()];
        definition.max_log_bytes = 12;
    };
    let mut guest = guest(Kind::Job, grant, |_| {});
    guest.serve(Served::new(services, None));
    (guest, directory)
}

#[test]
fn a_secret_is_told_to_those_who_are_granted_it() {
    let (mut guest, _directory) = guest_with_secrets();
    assert_eq!(Host::get(&mut guest, "API_KEY".into()).unwrap(), "hunter2");
    let Err(Error::Denied(why)) = Host::get(&mut guest, "OTHER".into()) else { panic!("denied") };
    assert_eq!(why, "the definition does not grant \"OTHER\": add it to functions.orders.allow.secrets");
    assert!(matches!(Host::get(&mut guest, "api_key".into()), Err(Error::Denied(_))));
    let Err(Error::Unavailable(why)) = Host::get(&mut guest, "GONE".into()) else { panic!("unavailable") };
    assert_eq!(why, "unavailable: the engine does not have the secret \"GONE\"");
    let ops = guest.detail().unwrap().host_ops;
    let told: Vec<(&str, &str, bool)> =
        ops.iter().map(|op| (op.op.as_ref(), op.target.as_str(), op.error.is_some())).collect();
    assert_eq!(told[..2], [("secret", "API_KEY", false), ("secret", "OTHER", true)]);
}

#[test]
fn stars_stand_where_a_granted_secret_would_in_logs_and_traces() {
    let (mut guest, _directory) = guest_with_secrets();
    log::Host::write(&mut guest, log::Level::Info, "is hunter2 ok".into());
    let refused = messaging::Message { subject: "to.hunter2".into(), headers: Vec::new(), payload: Vec::new() };
    messaging::Host::publish(&mut guest, refused).unwrap_err();
    let detail = guest.detail().unwrap();
    assert_eq!(detail.logs[0].message, "is *** ok", "hidden first and cut then");
    assert!(!format!("{detail:?}").contains("hunter2"), "{detail:?}");
    assert_eq!(detail.host_ops[0].target, "to.***");

    let (mut guest, _directory) = guest_with_secrets();
    log::Host::write(&mut guest, log::Level::Info, "12345678 hunter2".into());
    assert_eq!(guest.detail().unwrap().logs[0].message, "12345678 ***", "no part of it is left by the cut");
}
