//! Deploys, versions, modules.

use std::collections::BTreeSet;

use tokio::task::JoinSet;

use super::Shared;
use super::make::*;
use crate::executor::Abi;
use crate::functions::Digest;
use crate::store::{Error, FunctionRow};

pub(in crate::store) async fn deploying_numbers_versions_and_keeps_identity(store: Shared) {
    let first = deploy_one(&store, deploy_of("f", b"one")).await;
    assert_eq!((first.version, first.created), (1, true));
    let again = deploy_one(&store, deploy_of("f", b"one")).await;
    assert_eq!((again.version, again.created), (1, false), "the same pair is the same version");
    assert_eq!(deploy_one(&store, deploy_of("f", b"two")).await.version, 2, "another module");
    let mut definition = deploy_of("f", b"two");
    definition.definition.env_vars.insert("SIZE".to_owned(), "320".to_owned());
    assert_eq!(deploy_one(&store, definition.clone()).await.version, 3, "another definition");

    let versions = store.versions("default".to_owned(), "f".to_owned()).await.unwrap();
    assert_eq!(versions.iter().map(|version| version.number).collect::<Vec<_>>(), [3, 2, 1]);
    assert_eq!(versions.iter().map(|version| version.routed).collect::<Vec<_>>(), [true, false, false]);
    assert!(versions.iter().all(|version| version.function_id == versions[0].function_id));
    assert_eq!(versions[0].definition, definition.definition);
    assert_eq!((versions[0].digest, versions[0].module_bytes), (Digest::of(b"two"), 3));
    assert_eq!(versions[0].abi, Abi::WasiHttp);

    let functions = store.functions().await.unwrap();
    assert_eq!(functions.len(), 1);
    assert_eq!(functions[0].version.number, 3);
    assert_eq!(functions[0].triggers, definition.triggers);
    let old = store.version("default".to_owned(), "f".to_owned(), 1).await.unwrap().expect("version 1 is kept");
    assert_eq!(old.digest, Digest::of(b"one"));
    assert!(store.version("default".to_owned(), "f".to_owned(), 4).await.unwrap().is_none());
    assert!(store.versions("default".to_owned(), "g".to_owned()).await.unwrap().is_empty());
}

pub(in crate::store) async fn deploying_an_older_pair_again_moves_the_route_back(store: Shared) {
    deploy_one(&store, deploy_of("f", b"one")).await;
    deploy_one(&store, deploy_of("f", b"two")).await;
    let back = deploy_one(&store, deploy_of("f", b"one")).await;
    assert_eq!((back.version, back.created), (1, false));
    assert_eq!(store.functions().await.unwrap()[0].version.number, 1);
    assert_eq!(store.versions("default".to_owned(), "f".to_owned()).await.unwrap().len(), 2);
    assert_eq!(deploy_one(&store, deploy_of("f", b"three")).await.version, 3, "a number is never used twice");
}

pub(in crate::store) async fn deploying_a_namespace_unroutes_what_is_missing_there_and_only_there(store: Shared) {
    let elsewhere = |name: &str| {
        let mut deploy = deploy_of(name, b"module");
        deploy.definition.namespace = "other".to_owned();
        deploy
    };
    store.deploy("other".to_owned(), vec![elsewhere("a")]).await.unwrap();
    store.deploy("default".to_owned(), vec![deploy_of("a", b"module"), deploy_of("b", b"module")]).await.unwrap();
    let names = |functions: Vec<FunctionRow>| -> Vec<String> {
        let definitions = functions.into_iter().map(|function| function.version.definition);
        definitions.map(|definition| format!("{}/{}", definition.namespace, definition.name)).collect()
    };
    assert_eq!(names(store.functions().await.unwrap()), ["default/a", "default/b", "other/a"]);
    let before = store.versions("default".to_owned(), "a".to_owned()).await.unwrap();

    store.deploy("default".to_owned(), vec![deploy_of("b", b"module")]).await.unwrap();
    assert_eq!(names(store.functions().await.unwrap()), ["default/b", "other/a"]);
    let after = store.versions("default".to_owned(), "a".to_owned()).await.unwrap();
    assert_eq!(after.len(), 1, "its versions stay");
    assert!(!after[0].routed);

    let back = deploy_one(&store, deploy_of("a", b"module")).await;
    assert_eq!((back.version, back.created), (1, false));
    let identity = store.versions("default".to_owned(), "a".to_owned()).await.unwrap()[0].function_id;
    assert_eq!(identity, before[0].function_id, "a function that comes back is the same one");
    store.deploy("default".to_owned(), Vec::new()).await.unwrap();
    assert_eq!(names(store.functions().await.unwrap()), ["other/a"]);
}

pub(in crate::store) async fn a_deploy_that_contradicts_itself_changes_nothing(store: Shared) {
    deploy_one(&store, deploy_of("f", b"one")).await;
    let mut wrong_digest = deploy_of("f", b"two");
    wrong_digest.digest = Digest::of(b"something else");
    let mut wrong_namespace = deploy_of("f", b"two");
    wrong_namespace.definition.namespace = "other".to_owned();
    let mut same_trigger = deploy_of("f", b"two");
    same_trigger.triggers.push(same_trigger.triggers[0].clone());
    for wrong in [wrong_digest, wrong_namespace, same_trigger] {
        // The good one comes first: what was written of it must be undone.
        let result = store.deploy("default".to_owned(), vec![deploy_of("good", b"three"), wrong]).await;
        assert!(matches!(result, Err(Error::Corrupt { .. })), "{result:?}");
        let functions = store.functions().await.unwrap();
        assert_eq!(functions.len(), 1);
        assert_eq!((functions[0].version.number, functions[0].triggers.len()), (1, 2));
        assert!(store.versions("default".to_owned(), "good".to_owned()).await.unwrap().is_empty());
    }
}

pub(in crate::store) async fn concurrent_deploys_number_versions_densely(store: Shared) {
    const DEPLOYS: u32 = 24;
    let mut tasks = JoinSet::new();
    for number in 0..DEPLOYS {
        let store = store.clone();
        // Each pair is deployed twice at once.
        let mut deploy = deploy_of("f", b"module");
        deploy.definition.retry_count = number / 2;
        tasks.spawn(async move { deploy_one(&store, deploy).await });
    }
    let deployed = tasks.join_all().await;
    let created: BTreeSet<u32> = deployed.iter().filter(|one| one.created).map(|one| one.version).collect();
    assert_eq!(created, (1..=DEPLOYS / 2).collect());
    assert_eq!(deployed.iter().filter(|one| one.created).count() as u32, DEPLOYS / 2);
    let versions = store.versions("default".to_owned(), "f".to_owned()).await.unwrap();
    assert_eq!(versions.len() as u32, DEPLOYS / 2);
    assert_eq!(versions.iter().filter(|version| version.routed).count(), 1);
}

pub(in crate::store) async fn modules_are_stored_once_and_come_back_unchanged(store: Shared) {
    store.deploy("default".to_owned(), vec![deploy_of("f", b"same"), deploy_of("g", b"same")]).await.unwrap();
    assert_eq!(store.module(Digest::of(b"same")).await.unwrap().as_deref(), Some(&b"same"[..]));
    assert_eq!(store.module(Digest::of(b"other")).await.unwrap(), None);
    let mut empty = deploy_of("h", b"");
    empty.triggers.clear();
    deploy_one(&store, empty).await;
    assert_eq!(store.module(Digest::of(b"")).await.unwrap().as_deref(), Some(&b""[..]));
    assert!(store.functions().await.unwrap()[0].triggers.is_empty());
}
