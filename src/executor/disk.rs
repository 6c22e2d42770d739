//! Compiled code on disk, so that a start does not compile again.
//!
//! What is loaded from here runs as native code. So the directory is the user's alone, and every file carries a MAC
//! under a key that was made here; a file that does not match is deleted and made again.
//!
//! A file is mapped and not read: of its code only what runs comes into memory. BLAKE3, because the first call waits for
//! the MAC of all of it: SHA-256 takes three times as long, also where a processor has instructions for it.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{Hash as _, Hasher};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use wasmtime::component::Component;
use wasmtime::{Engine, Module};

use super::Abi;
use super::compiled::Code;
use crate::functions::Digest;

const MAC_BYTES: usize = blake3::OUT_LEN;
const KEY_BYTES: usize = blake3::KEY_LEN;

/// A directory of compiled code, for one build of the compiler with one configuration.
pub(super) struct DiskCache {
    root: PathBuf,
    directory: PathBuf,
    key: [u8; KEY_BYTES],
}

impl DiskCache {
    /// Opens or makes the directory and its key.
    pub(super) fn open(root: &Path, engine: &Engine) -> std::io::Result<Self> {
        let mut hasher = std::hash::DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let directory = root.join(format!("{:016x}", hasher.finish()));
        self::directory(&directory)?;
        let key = secret(&root.join("key"))?;
        Ok(Self { root: root.to_owned(), directory, key })
    }

    /// Where the code of a module is, if it is.
    pub(super) fn path(&self, digest: Digest, abi: Abi) -> PathBuf {
        self.directory.join(format!("{}.{}", hex(digest), abi.as_str()))
    }

    /// What stands behind the code, under the MAC with it: which module it is of.
    fn label(digest: Digest, abi: Abi) -> Vec<u8> {
        [&digest.0, abi.as_str().as_bytes(), b"\0"].concat()
    }

    /// Whether a file is as it was written here, for this module.
    fn is_ours(&self, path: &Path, digest: Digest, abi: Abi) -> std::io::Result<bool> {
        let mut file = File::open(path)?;
        let label = Self::label(digest, abi);
        let Some(code_bytes) = file.metadata()?.len().checked_sub((label.len() + MAC_BYTES) as u64) else {
            return Ok(false);
        };
        let mut mac = blake3::Hasher::new_keyed(&self.key);
        mac.update_reader((&mut file).take(code_bytes))?.update(&label);
        let mut end = vec![0; label.len() + MAC_BYTES];
        file.read_exact(&mut end)?;
        let (named, told) = end.split_at(label.len());
        // Compares in constant time.
        Ok(named == label && blake3::Hash::from_slice(told).is_ok_and(|told| mac.finalize() == told))
    }

    /// The code of a module, if an engine like this one compiled it.
    pub(super) fn load(&self, engine: &Engine, digest: Digest, abi: Abi) -> Option<Code> {
        let path = self.path(digest, abi);
        let is_ours = match self.is_ours(&path, digest, abi) {
            Ok(is_ours) => is_ours,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), "cannot read compiled code, it is made again: {error}");
                return None;
            }
        };
        let code = is_ours.then(|| deserialize(engine, abi, &path)).flatten();
        if code.is_some() {
            touch(&path);
        } else {
            tracing::warn!(path = %path.display(), "compiled code was changed or is of no use, it is made again");
            let _ = std::fs::remove_file(&path);
        }
        code
    }

    /// Removes what nobody has used for `keep`, other builds' code included, and then what was used longest ago until
    /// the rest fits `max_bytes`. What is `in_memory` counts as used now: a restart finds it. Blocks.
    pub(super) fn clean(
        &self,
        keep: Duration,
        max_bytes: u64,
        in_memory: &HashSet<PathBuf>,
    ) -> std::io::Result<Cleaned> {
        let (mut files, mut cleaned) = (Vec::new(), Cleaned::default());
        for build in std::fs::read_dir(&self.root)? {
            let build = build?.path();
            // The key lies beside the directories, and so may what is not ours.
            if !build.is_dir() || !is_build(&build) {
                continue;
            }
            for file in std::fs::read_dir(&build)? {
                let path = file?.path();
                if in_memory.contains(&path) {
                    touch(&path);
                }
                // One that another engine removes meanwhile is gone.
                if let Ok(about) = std::fs::metadata(&path) {
                    files.push((about.modified()?, about.len(), path));
                }
            }
        }
        files.sort();
        let mut bytes: u64 = files.iter().map(|(_, size, _)| size).sum();
        let oldest_kept = SystemTime::now().checked_sub(keep).unwrap_or(SystemTime::UNIX_EPOCH);
        for (used, size, path) in files {
            if used >= oldest_kept && bytes <= max_bytes {
                break;
            }
            std::fs::remove_file(&path).or_else(|error| match error.kind() {
                ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?;
            bytes -= size;
            cleaned.files += 1;
            cleaned.bytes += size;
            // Goes with its last file; that there are others is no failure.
            if let Some(build) = path.parent().filter(|build| *build != self.directory) {
                let _ = std::fs::remove_dir(build);
            }
        }
        Ok(cleaned)
    }

    /// Keeps the code of a module. Failing to is no failure: it is compiled again.
    pub(super) fn save(&self, digest: Digest, abi: Abi, code: &Code) {
        let path = self.path(digest, abi);
        let saved = code.serialize().map_err(std::io::Error::other).and_then(|code| {
            let label = Self::label(digest, abi);
            let mut mac = blake3::Hasher::new_keyed(&self.key);
            mac.update(&code).update(&label);
            // A clean-up that found nothing in it removed it, if it was another engine's.
            directory(&self.directory)?;
            write_whole(&path, &[&code, &label, mac.finalize().as_bytes()])
        });
        if let Err(error) = saved {
            tracing::warn!(path = %path.display(), "cannot keep compiled code: {error}");
        }
    }
}

/// What a clean-up removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Files of compiled code.
    pub files: u64,
    /// Their bytes together.
    pub bytes: u64,
}

fn directory(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn hex(digest: Digest) -> String {
    digest.to_string().trim_start_matches("sha256:").to_owned()
}

/// Whether a directory is that of a build.
fn is_build(directory: &Path) -> bool {
    let name = directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Notes that a file is of use. Failing to only has it compiled again some day.
fn touch(path: &Path) {
    if let Ok(file) = std::fs::File::options().append(true).open(path) {
        let _ = file.set_modified(SystemTime::now());
    }
}

#[expect(unsafe_code, reason = "wasmtime loads machine code, which it cannot check; the MAC says that it is ours")]
fn deserialize(engine: &Engine, abi: Abi, path: &Path) -> Option<Code> {
    // SAFETY: the file begins with what `Code::serialize` gave, since nobody else has the key of its MAC. That it is
    // looked at before it is mapped makes no difference: no file of the directory is written to once it has its name,
    // and another takes its place only by a rename of `write_whole`'s. Whoever else could do either is this user, whose
    // directory it is (0700), and could read the key.
    let mapped = unsafe {
        match abi.is_component() {
            true => Component::deserialize_file(engine, path).map(Code::Component),
            false => Module::deserialize_file(engine, path).map(Code::Core),
        }
    };
    mapped.or_else(|_| copied(engine, abi, path)).ok()
}

/// The same by a copy: a file system may forbid that what is on it is run (`noexec`).
#[expect(unsafe_code, reason = "as above")]
fn copied(engine: &Engine, abi: Abi, path: &Path) -> wasmtime::Result<Code> {
    let code = std::fs::read(path)?;
    // SAFETY: as above.
    unsafe {
        match abi.is_component() {
            true => Component::deserialize(engine, code).map(Code::Component),
            false => Module::deserialize(engine, code).map(Code::Core),
        }
    }
}

/// Reads the key, or makes one.
fn secret(path: &Path) -> std::io::Result<[u8; KEY_BYTES]> {
    match std::fs::read(path).map(<[u8; KEY_BYTES]>::try_from) {
        Ok(Ok(key)) => return Ok(key),
        Ok(Err(_)) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut key = [0; KEY_BYTES];
    let random = ring::rand::SystemRandom::new();
    ring::rand::SecureRandom::fill(&random, &mut key).map_err(|_| std::io::Error::other("no randomness"))?;
    write_whole(path, &[&key])?;
    Ok(key)
}

/// Writes a file that is there as a whole or not at all, for its owner alone.
fn write_whole(path: &Path, parts: &[&[u8]]) -> std::io::Result<()> {
    let beside = path.with_extension(format!("{:016x}.new", fastrand::u64(..)));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written = parts.iter().try_for_each(|part| file.write_all(part));
    let renamed = written.and_then(|()| std::fs::rename(&beside, path));
    if renamed.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    renamed
}
