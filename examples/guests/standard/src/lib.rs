//! Uses standard interfaces and nothing of ours but `handle`. Each line of its payload begins with the interface:
//!
//! | line | what is asked |
//! | --- | --- |
//! | `draft …`, `draft2 …` | of `wasi:keyvalue` in that draft: `get`, `set`, `delete`, `exists`, `keys`, `add`, `many`, and in the second `swap`, each with a bucket and keys |
//! | `config KEY` | `wasi:config/store`, in both versions |
//! | `log CONTEXT MESSAGE` | `wasi:logging` |

wit_bindgen::generate!({
    path: [
        "../../../wit",
        "../../../wit/standard/keyvalue-draft",
        "../../../wit/standard/keyvalue-draft2",
        "../../../wit/standard/config-draft",
        "../../../wit/standard/config-rc1",
        "../../../wit/standard/logging",
    ],
    inline: "
        package tripline:standard;
        world standard {
            use tripline:function/types@0.1.0.{context, failure};
            import wasi:keyvalue/store@0.2.0-draft;
            import wasi:keyvalue/atomics@0.2.0-draft;
            import wasi:keyvalue/batch@0.2.0-draft;
            import wasi:keyvalue/store@0.2.0-draft2;
            import wasi:keyvalue/atomics@0.2.0-draft2;
            import wasi:keyvalue/batch@0.2.0-draft2;
            import wasi:config/store@0.2.0-draft;
            import wasi:config/store@0.2.0-rc.1;
            import wasi:logging/logging@0.1.0-draft;
            export handle: func(cx: context, payload: list<u8>) -> result<list<u8>, failure>;
        }
    ",
    world: "tripline:standard/standard",
    generate_all,
});

struct Standard;
export!(Standard);

impl Guest for Standard {
    fn handle(_cx: Context, payload: Vec<u8>) -> Result<Vec<u8>, Failure> {
        let text = String::from_utf8(payload).map_err(|_| Failure::Permanent("the payload is no text".into()))?;
        let mut answers = String::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let answer = match words.as_slice() {
                ["draft", rest @ ..] => first::obey(rest).unwrap_or_else(|error| format!("{error:?}")),
                ["draft2", "swap", bucket, key, value] => second::swap(bucket, key, value),
                ["draft2", rest @ ..] => second::obey(rest).unwrap_or_else(|error| format!("{error:?}")),
                ["config", key] => config(key),
                ["log", context, rest @ ..] => {
                    wasi::logging::logging::log(wasi::logging::logging::Level::Critical, context, &rest.join(" "));
                    "logged".into()
                }
                _ => format!("{line:?} is not known"),
            };
            answers.push_str(&answer);
            answers.push('\n');
        }
        Ok(answers.into_bytes())
    }
}

macro_rules! keyvalue {
    ($store:path, $atomics:path, $batch:path) => {
        use $atomics as atomics;
        use $batch as batch;
        use $store as store;

        pub fn obey(words: &[&str]) -> Result<String, store::Error> {
            let bucket = store::open(words[1])?;
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            Ok(match (words[0], &words[2..]) {
                ("get", [key]) => bucket.get(key)?.map_or("none".into(), text),
                ("set", [key, value]) => format!("{:?}", bucket.set(key, value.as_bytes())?),
                ("delete", [key]) => format!("{:?}", bucket.delete(key)?),
                ("exists", [key]) => bucket.exists(key)?.to_string(),
                ("keys", []) => bucket.list_keys(None)?.keys.join(" "),
                ("add", [key, delta]) => atomics::increment(&bucket, key, delta.parse().unwrap_or(0))?.to_string(),
                ("many", [one, other]) => {
                    let pairs = [(one.to_string(), b"1".to_vec()), (other.to_string(), b"2".to_vec())];
                    batch::set_many(&bucket, &pairs)?;
                    let keys = [one.to_string(), "missing".into(), other.to_string()];
                    let found = batch::get_many(&bucket, &keys)?;
                    batch::delete_many(&bucket, &keys[..1])?;
                    let shown = |pair: Option<(String, Vec<u8>)>| pair.map_or("none".into(), |(_, value)| text(value));
                    found.into_iter().map(shown).collect::<Vec<String>>().join(" ")
                }
                _ => "not known".into(),
            })
        }
    };
}

mod first {
    keyvalue!(
        crate::wasi::keyvalue0_2_0_draft::store,
        crate::wasi::keyvalue0_2_0_draft::atomics,
        crate::wasi::keyvalue0_2_0_draft::batch
    );
}

mod second {
    keyvalue!(
        crate::wasi::keyvalue0_2_0_draft2::store,
        crate::wasi::keyvalue0_2_0_draft2::atomics,
        crate::wasi::keyvalue0_2_0_draft2::batch
    );

    /// Looks twice and replaces what it saw twice: the second time it sees what the first wrote, and is told.
    pub fn swap(bucket: &str, key: &str, value: &str) -> String {
        let bucket = store::open(bucket).unwrap();
        let (one, other) = (atomics::Cas::new(&bucket, key).unwrap(), atomics::Cas::new(&bucket, key).unwrap());
        let first = atomics::swap(one, value.as_bytes()).is_ok();
        match atomics::swap(other, b"late") {
            Err(atomics::CasError::CasFailed(fresh)) => {
                let seen = fresh.current().unwrap().unwrap_or_default();
                let again = atomics::swap(fresh, b"again").is_ok();
                format!("{first} {} {again}", String::from_utf8_lossy(&seen))
            }
            other => format!("{other:?}"),
        }
    }
}

fn config(key: &str) -> String {
    let draft = wasi::config0_2_0_draft::store::get(key).unwrap();
    let rc = wasi::config0_2_0_rc_1::store::get(key).unwrap();
    assert_eq!(draft, rc);
    let all = wasi::config0_2_0_draft::store::get_all().unwrap();
    format!("{} of {}", draft.unwrap_or("none".into()), all.len())
}
