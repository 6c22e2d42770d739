//! Compiled code: made once, found again, let go.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

#[tokio::test]
async fn however_many_ask_at_once_a_module_is_compiled_once() {
    let rig = Arc::new(Rig::new(guest("steer.component.wat")));
    let calls = (0..50).map(|_| rig.call("hello"));
    let attempts = futures_util::future::join_all(calls).await;
    assert!(attempts.iter().all(|attempt| attempt.result.is_ok()));
    let counts = rig.executor.cache_counts();
    assert_eq!((counts.compiles, counts.misses), (1, 50));
    assert_eq!(rig.source.asked.load(Ordering::Relaxed), 1);
    rig.call("hello").await.result.unwrap();
    assert_eq!(rig.executor.cache_counts().hits, 1);
}

#[tokio::test]
async fn one_who_stops_waiting_does_not_stop_the_compiler() {
    let rig = Rig::new(guest("steer.component.wat"));
    let impatient = tokio::time::timeout(Duration::ZERO, rig.executor.prepare(&rig.version)).await;
    assert!(impatient.is_err());
    rig.executor.prepare(&rig.version).await.unwrap();
    assert_eq!(rig.executor.cache_counts().compiles, 1);
}

#[tokio::test]
async fn what_was_used_longest_ago_goes_first() {
    let modules: Vec<Bytes> = (0..4).map(numbered).collect();
    let config = ExecutorConfig { max_instances: 1, max_cached_modules: 2, ..ExecutorConfig::default() };
    let rig = Rig::configured(modules.clone(), config, |_| {});
    let versions: Vec<_> = modules.iter().map(|module| version(&rig.executor, module, |_| {})).collect();
    let call = async |number: usize| {
        let deadline = Instant::now() + Duration::from_secs(10);
        rig.executor.attempt(&versions[number], &event(Kind::Job, ""), deadline, None).await.result.unwrap();
    };
    for number in [0, 1, 0, 2] {
        call(number).await;
    }
    assert_eq!(rig.executor.cache_counts().compiles, 3);
    call(0).await;
    assert_eq!(rig.executor.cache_counts().compiles, 3, "used after the other, it stayed");
    call(1).await;
    assert_eq!(rig.executor.cache_counts().compiles, 4, "used longest ago, it went");
}

#[tokio::test]
async fn the_bytes_of_compiled_modules_are_bounded_but_the_newest_always_stays() {
    let modules: Vec<Bytes> = (0..2).map(numbered).collect();
    let config = ExecutorConfig { max_instances: 1, max_cached_bytes: 1, ..ExecutorConfig::default() };
    let rig = Rig::configured(modules.clone(), config, |_| {});
    let other = version(&rig.executor, &modules[1], |_| {});
    for _ in 0..3 {
        rig.executor.prepare(&rig.version).await.unwrap();
    }
    assert_eq!(rig.executor.cache_counts().compiles, 1);
    rig.executor.prepare(&other).await.unwrap();
    rig.executor.prepare(&rig.version).await.unwrap();
    assert_eq!(rig.executor.cache_counts().compiles, 3);
}

fn on_disk(directory: &std::path::Path) -> ExecutorConfig {
    ExecutorConfig { max_instances: 1, cache_dir: Some(directory.join("cache")), ..ExecutorConfig::default() }
}

/// The one file of compiled code.
fn file(directory: &std::path::Path) -> std::path::PathBuf {
    let cache = directory.join("cache");
    let build =
        std::fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_dir()).unwrap();
    std::fs::read_dir(build).unwrap().next().expect("compiled code").unwrap().path()
}

#[tokio::test]
async fn what_one_engine_compiled_the_next_one_finds() {
    for module in [guest("steer.component.wat"), guest("steer.wat"), guest("hello-http.wasm")] {
        let directory = tempfile::tempdir().unwrap();
        let compiles = async || {
            let rig = Rig::configured(vec![module.clone()], on_disk(directory.path()), |_| {});
            rig.call("hello").await.result.unwrap();
            rig.executor.cache_counts().compiles
        };
        assert_eq!(compiles().await, 1);
        assert_eq!(compiles().await, 0);
        for path in [directory.path().join("cache/key"), file(directory.path())] {
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
        }
    }
}

#[tokio::test]
async fn a_file_that_was_changed_is_deleted_and_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let compiles = async || {
        let rig = Rig::configured(vec![guest("steer.component.wat")], on_disk(directory.path()), |_| {});
        assert_eq!(rig.call("hello").await.result.unwrap().body, "hello");
        rig.executor.cache_counts().compiles
    };
    assert_eq!(compiles().await, 1);
    let path = file(directory.path());
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for changed in [&flipped[..], &whole[..100], b"", b"\x7fELF"] {
        std::fs::write(&path, changed).unwrap();
        assert_eq!(compiles().await, 1);
        assert_eq!(compiles().await, 0);
    }
    // Code of another module in its place, with a MAC that is right for that one.
    let other = Rig::configured(vec![guest("echo.component.wasm")], on_disk(directory.path()), |_| {});
    other.executor.prepare(&other.version).await.unwrap();
    let theirs = path.parent().unwrap().read_dir().unwrap().map(|entry| entry.unwrap().path()).find(|one| *one != path);
    std::fs::copy(theirs.unwrap(), &path).unwrap();
    assert_eq!(compiles().await, 1);
}

#[tokio::test]
async fn compiled_code_of_no_use_is_removed_from_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let (day, plenty) = (Duration::from_secs(86_400), u64::MAX);
    // Two modules whose engine is gone, and an older build's code; one of them is used again.
    for module in [guest("steer.wat"), guest("steer.component.wat")] {
        let rig = Rig::configured(vec![module], on_disk(directory.path()), |_| {});
        rig.executor.prepare(&rig.version).await.unwrap();
    }
    let build = file(directory.path()).parent().unwrap().to_owned();
    let other_build = directory.path().join("cache/0123456789abcdef");
    std::fs::create_dir(&other_build).unwrap();
    std::fs::write(other_build.join("x.command"), b"old").unwrap();
    let strange = directory.path().join("cache/notes");
    std::fs::create_dir(&strange).unwrap();
    std::fs::write(strange.join("mine"), b"not ours").unwrap();
    let rig = Rig::configured(vec![guest("steer.wat")], on_disk(directory.path()), |_| {});
    let files = || std::fs::read_dir(&build).unwrap().count();
    assert_eq!(rig.executor.clean_cache(day, plenty).await.unwrap().files, 0, "all of it is new");
    assert_eq!(files(), 2);

    let long_ago = std::time::SystemTime::now() - 3 * day;
    let age = |path: &std::path::Path| {
        for entry in std::fs::read_dir(path).unwrap() {
            let file = std::fs::File::options().append(true).open(entry.unwrap().path()).unwrap();
            file.set_modified(long_ago).unwrap();
        }
    };
    [&build, &other_build, &strange].into_iter().for_each(|path| age(path));
    // What is loaded is of use.
    rig.executor.prepare(&rig.version).await.unwrap();
    let cleaned = rig.executor.clean_cache(day, plenty).await.unwrap();
    assert_eq!((cleaned.files, files()), (2, 1));
    assert!(!other_build.exists() && strange.join("mine").exists() && directory.path().join("cache/key").exists());

    // So is what has been in memory all the time.
    age(&build);
    assert_eq!(rig.executor.clean_cache(day, plenty).await.unwrap().files, 0);
    let cleaned = rig.executor.clean_cache(day, 0).await.unwrap();
    assert!((cleaned.files, files()) == (1, 0) && cleaned.bytes > 1000);
    assert_eq!(rig.executor.clean_cache(day, 0).await.unwrap().files, 0);
}

#[tokio::test]
async fn bytes_that_are_not_what_was_deployed_are_not_run() {
    struct Swapped;
    impl ModuleSource for Swapped {
        fn module(&self, _: Digest) -> BoxFuture<'_, Result<Bytes, ModuleError>> {
            Box::pin(async { Ok(numbered(1)) })
        }
    }
    let executor =
        WasmExecutor::new(ExecutorConfig { max_instances: 1, ..ExecutorConfig::default() }, Arc::new(Swapped));
    let executor = executor.unwrap();
    let deployed = version(&executor, &numbered(0), |_| {});
    assert!(matches!(executor.prepare(&deployed).await, Err(ModuleError::Corrupt { .. })));
    let deadline = Instant::now() + Duration::from_secs(10);
    let failure = executor.attempt(&deployed, &event(Kind::Job, ""), deadline, None).await.result.unwrap_err();
    assert_eq!((failure.code, failure.retryable), (FailureCode::HostError, false));
}

#[tokio::test]
async fn a_module_that_takes_too_long_to_compile_is_refused_and_the_next_one_has_its_turn() {
    let directory = tempfile::tempdir().unwrap();
    let modules: Vec<Bytes> = (0..2).map(numbered).collect();
    let hasty = ExecutorConfig { max_compile_time: Duration::ZERO, ..on_disk(directory.path()) };
    let rig = Rig::configured(modules.clone(), hasty, |_| {});
    for module in &modules {
        let version = version(&rig.executor, module, |_| {});
        let error = rig.executor.prepare(&version).await.unwrap_err();
        assert!(matches!(error, ModuleError::CompilesTooLong { limit: Duration::ZERO }), "{error}");
    }
    let failure = rig.call("").await.result.unwrap_err();
    assert_eq!((failure.code, failure.retryable), (FailureCode::HostError, false));
    // It is not found on the disk later, either.
    let patient = Rig::configured(modules, on_disk(directory.path()), |_| {});
    patient.executor.prepare(&patient.version).await.unwrap();
    assert_eq!(patient.executor.cache_counts().compiles, 1);
}

#[tokio::test]
async fn a_file_of_another_length_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let module = guest("steer.wat");
    let rig = |module: &Bytes| Rig::configured(vec![module.clone()], on_disk(directory.path()), |_| {});
    let first = rig(&module);
    first.executor.prepare(&first.version).await.unwrap();
    let path = file(directory.path());
    let whole = std::fs::read(&path).unwrap();
    // Cut anywhere, longer by a byte, or empty: it is made again.
    for changed in [&whole[..whole.len() - 1], &whole[..40], &[], &[&whole[..], b"x"].concat()] {
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, changed).unwrap();
        let rig = rig(&module);
        assert_eq!(rig.call("hello").await.result.unwrap().body, "hello");
        assert_eq!(rig.executor.cache_counts().compiles, 1, "{} bytes", changed.len());
    }
}
