//! WASI as guests get it: time, randomness, their definition's environment, standard streams, requests to the outside
//! that are granted. No files, no sockets.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::body::HostOutgoingBody;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

use super::guest::Guest;
use super::logs::{LineStream, Logs};
use super::outbound::{Outbound, SendError};
use crate::egress::BoxError;
use crate::functions::Definition;

/// Resources that a guest may hold at once.
const MAX_RESOURCES: usize = 10_000;

/// The most random bytes that a guest gets at once.
const MAX_RANDOM_BYTES: u64 = 1 << 20;

/// What WASI keeps of one attempt.
pub(super) struct Wasi {
    context: Context,
    streams: Vec<LineStream>,
    logs: Arc<Mutex<Logs>>,
}

/// One of the two forms that WASI comes in.
enum Context {
    /// For core modules: commands and reactors (preview 1).
    Command(WasiP1Ctx),
    /// For components.
    Component { wasi: WasiCtx, table: ResourceTable, http: WasiHttpCtx, requests: Requests },
}

impl Context {
    fn component(wasi: WasiCtx, guest: &mut Guest) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_RESOURCES);
        Context::Component { wasi, table, http: WasiHttpCtx::new(), requests: Requests(guest.outbound()) }
    }
}

impl Wasi {
    /// For a component: what it writes to its standard streams becomes log lines.
    pub(super) fn component(guest: &mut Guest) -> Self {
        let (logs, stdout, stderr) = streams(guest);
        let mut builder = builder(guest);
        builder.stdout(stdout.clone()).stderr(stderr.clone());
        let context = Context::component(builder.build(), guest);
        Self { context, streams: vec![stdout, stderr], logs }
    }

    /// For a command: input on stdin, the answer from stdout; stderr becomes log lines.
    pub(super) fn command(guest: &Guest, input: Bytes) -> (Self, MemoryOutputPipe) {
        let (mut builder, logs, stderr, answer) = piped(guest, input);
        let context = Context::Command(builder.build_p1());
        (Self { context, streams: vec![stderr], logs }, answer)
    }

    /// The same for a command that is a component.
    pub(super) fn command_component(guest: &mut Guest, input: Bytes) -> (Self, MemoryOutputPipe) {
        let (mut builder, logs, stderr, answer) = piped(guest, input);
        let context = Context::component(builder.build(), guest);
        (Self { context, streams: vec![stderr], logs }, answer)
    }

    /// For a reactor: what it writes to its standard streams becomes log lines.
    pub(super) fn reactor(guest: &Guest) -> Self {
        let (logs, stdout, stderr) = streams(guest);
        let mut builder = builder(guest);
        builder.stdout(stdout.clone()).stderr(stderr.clone());
        Self { context: Context::Command(builder.build_p1()), streams: vec![stdout, stderr], logs }
    }

    /// Everything that was written to streams for people.
    pub(super) fn take_logs(&mut self, definition: &Definition) -> Logs {
        self.streams.iter().for_each(LineStream::finish);
        std::mem::replace(&mut *self.logs.lock(), Logs::new(definition, Instant::now()))
    }

    /// Speaks for another guest of the same version from now on.
    pub(super) fn serve(&mut self, guest: &mut Guest) {
        *self.logs.lock() = logs(guest);
        if let Context::Component { requests, .. } = &mut self.context {
            requests.0 = guest.outbound();
        }
    }

    /// Whether the guest holds nothing open but streams, as its standard ones: libraries keep those for ever.
    pub(super) fn has_finished(&mut self) -> bool {
        match &mut self.context {
            Context::Command(_) => true,
            Context::Component { table, .. } => {
                table.iter_mut().all(|open| open.is::<DynOutputStream>() || open.is::<DynInputStream>())
            }
        }
    }

    /// Whether the guest holds a body that it has not finished.
    pub(super) fn has_open_body(&mut self) -> bool {
        match &mut self.context {
            Context::Command(_) => false,
            Context::Component { table, .. } => table.iter_mut().any(|open| open.is::<HostOutgoingBody>()),
        }
    }

    /// The last line that was written to streams for people.
    pub(super) fn last_words(&self) -> Option<String> {
        self.streams.iter().for_each(LineStream::finish);
        self.logs.lock().last_words()
    }
}

/// A command's surroundings: its input on stdin, its answer from stdout.
fn piped(guest: &Guest, input: Bytes) -> (WasiCtxBuilder, Arc<Mutex<Logs>>, LineStream, MemoryOutputPipe) {
    let (logs, _, stderr) = streams(guest);
    // One byte more than is allowed, by which a larger answer is told from one that just fits.
    let limit = usize::try_from(guest.version.definition.max_output_bytes).unwrap_or(usize::MAX);
    let answer = MemoryOutputPipe::new(limit.saturating_add(1));
    let mut builder = builder(guest);
    builder.stdin(MemoryInputPipe::new(input)).stdout(answer.clone()).stderr(stderr.clone());
    builder.arg(&guest.version.definition.name);
    (builder, logs, stderr, answer)
}

fn streams(guest: &Guest) -> (Arc<Mutex<Logs>>, LineStream, LineStream) {
    let logs = Arc::new(Mutex::new(logs(guest)));
    let (stdout, stderr) = (LineStream::new("stdout", logs.clone()), LineStream::new("stderr", logs.clone()));
    (logs, stdout, stderr)
}

/// What a guest has logged: nothing yet.
fn logs(guest: &Guest) -> Logs {
    let mut logs = Logs::new(&guest.version.definition, guest.began);
    logs.masks = guest.logs.masks.clone();
    logs
}

fn builder(guest: &Guest) -> WasiCtxBuilder {
    let mut builder = WasiCtxBuilder::new();
    builder.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false).max_random_size(MAX_RANDOM_BYTES);
    for (name, value) in &guest.version.definition.env_vars {
        builder.env(name, value);
    }
    builder
}

/// The preview 1 context of a core module's guest.
pub(super) fn command_context(guest: &mut Guest) -> &mut WasiP1Ctx {
    match guest.wasi.as_deref_mut() {
        Some(Wasi { context: Context::Command(context), .. }) => context,
        _ => unreachable!("core modules are given their context before they are instantiated"),
    }
}

/// Why a guest without WASI cannot get here.
const NOT_GIVEN: &str = "components that import WASI are given it before they are instantiated";

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        match self.wasi.as_deref_mut() {
            Some(Wasi { context: Context::Component { wasi, table, .. }, .. }) => WasiCtxView { ctx: wasi, table },
            _ => unreachable!("{NOT_GIVEN}"),
        }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        match self.wasi.as_deref_mut() {
            Some(Wasi { context: Context::Component { table, http, requests, .. }, .. }) => {
                WasiHttpCtxView { hooks: requests, table, ctx: http }
            }
            _ => unreachable!("{NOT_GIVEN}"),
        }
    }
}

/// The way to the outside; none for guests that do not import it.
struct Requests(Option<Arc<Outbound>>);

type Sent = Result<(http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

impl WasiHttpHooks for Requests {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _done: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let outbound = self.0.clone();
        // Redirects are the guest's to see.
        Box::new(async move {
            let outbound = outbound.ok_or(Error::HttpRequestDenied)?;
            let within = options.and_then(|options| options.first_byte_timeout);
            let request = request.map(|body| body.map_err(|error| BoxError::from(format!("{error:?}"))).boxed_unsync());
            let response = outbound.send(request, within).await.map_err(told)?;
            let nothing_left: Box<dyn Future<Output = Result<(), Error>> + Send> = Box::new(async { Ok(()) });
            Ok((response.map(|body| body.map_err(told).boxed_unsync()), nothing_left))
        })
    }
}

/// A refusal in the words of `wasi:http`.
fn told(error: SendError) -> Error {
    match error {
        SendError::Denied(_) => Error::HttpRequestDenied,
        SendError::Prohibited(_) => Error::DestinationIpProhibited,
        SendError::Invalid("method", _) => Error::HttpRequestMethodInvalid,
        SendError::Invalid(..) => Error::HttpRequestUriInvalid,
        SendError::TooLarge(_) => Error::HttpResponseBodySize(None),
        SendError::TooMany(_) => Error::ConnectionLimitReached,
        SendError::Timeout(_) => Error::HttpResponseTimeout,
        SendError::Unreachable(_) => Error::DestinationUnavailable,
    }
}
