//! The queued admission: events are committed before their source is told.

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::sync::OwnedSemaphorePermit;
use trigger_core::{
    Accepted, Binding, Cancelled, Fingerprint, InvocationContext, Kind, Refused, Shed, SkipReason, Status, StatusState,
};
use uuid::Uuid;

use super::ledger::Counters;
use super::running::Running;
use super::{Dispatcher, RETRY_AFTER, needs_caller, store_refused};
use crate::store::{self, Accept, Admitted, Claim, Claimed, Lease, QueueFilter, QueueRow, QueuedInvocation};

/// What the engine can say of an event by itself.
enum Admissible {
    /// It is to be queued, where no more events of its trigger than this wait.
    Queued(Arc<Counters>, Option<u64>),
    /// It is not to run.
    Skipped(Arc<Counters>, SkipReason),
}

impl Dispatcher {
    /// Accepts one event.
    pub(super) async fn accept_one(self: &Arc<Self>, invocation: InvocationContext) -> Result<Accepted, Refused> {
        let _busy = self.clock.busy(|| format!("an event of {}", invocation.binding.path()));
        let (counters, max_backlog) = match self.admissible(&invocation)? {
            Admissible::Queued(counters, max_backlog) => (counters, max_backlog),
            Admissible::Skipped(counters, reason) => return Ok(self.skip(counters, invocation, reason)),
        };
        let queued = QueuedInvocation::new(invocation);
        let said = Said::of(&queued.invocation);
        let accepted = match self.commit(std::slice::from_ref(&queued), max_backlog).await {
            Ok(mut admitted) => self.admitted(&counters, queued, admitted.remove(0))?,
            Err(error) => return Err(refuse_store(&counters, &error)),
        };
        match said.filter(|_| accepted.duplicate) {
            Some(said) => Ok(Accepted { differs: self.differs(said).await?, ..accepted }),
            None => Ok(accepted),
        }
    }

    /// Whether the event that was accepted under a key said something else. One that was forgotten meanwhile, or that
    /// nothing was noted of, said the same.
    async fn differs(&self, Said { binding, key, fingerprint }: Said) -> Result<bool, Refused> {
        let first = self.store.fingerprint((*binding).clone(), key.into()).await;
        Ok(first.map_err(|error| store_refused(&error))?.is_some_and(|first| first != fingerprint))
    }

    /// Accepts many in as few commits as their limits allow: one, nearly always.
    pub(super) async fn accept_many(
        self: &Arc<Self>,
        invocations: Vec<InvocationContext>,
    ) -> Vec<Result<Accepted, Refused>> {
        let _busy = self.clock.busy(|| format!("{} events", invocations.len()));
        let mut answers: Vec<Option<Result<Accepted, Refused>>> = Vec::with_capacity(invocations.len());
        // By what bounds their trigger's backlog.
        let mut lists: Vec<(Option<u64>, List)> = Vec::new();
        for (index, invocation) in invocations.into_iter().enumerate() {
            match self.admissible(&invocation) {
                Err(refused) => answers.push(Some(Err(refused))),
                Ok(Admissible::Skipped(counters, reason)) => {
                    answers.push(Some(Ok(self.skip(counters, invocation, reason))));
                }
                Ok(Admissible::Queued(counters, max_backlog)) => {
                    answers.push(None);
                    let place = lists.iter().position(|(bound, _)| *bound == max_backlog);
                    let place = place.unwrap_or_else(|| {
                        lists.push((max_backlog, List::default()));
                        lists.len() - 1
                    });
                    let list = &mut lists[place].1;
                    list.places.push((index, counters));
                    list.queued.push(QueuedInvocation::new(invocation));
                }
            }
        }
        for (max_backlog, List { places, queued }) in lists {
            match self.commit(&queued, max_backlog).await {
                Ok(admitted) => {
                    for (((index, counters), queued), admitted) in places.into_iter().zip(queued).zip(admitted) {
                        answers[index] = Some(self.admitted(&counters, queued, admitted));
                    }
                }
                Err(error) => {
                    for (index, counters) in places {
                        answers[index] = Some(Err(refuse_store(&counters, &error)));
                    }
                }
            }
        }
        answers.into_iter().map(|answer| answer.expect("every event was refused or is in a list")).collect()
    }

    /// What can be said of an event before the store is asked.
    fn admissible(&self, invocation: &InvocationContext) -> Result<Admissible, Refused> {
        let target = self.target(&invocation.binding);
        let counters = target.counters;
        if target.demands.as_ref().is_some_and(|demands| !demands.matches(invocation)) {
            return Ok(Admissible::Skipped(counters, SkipReason::Filtered));
        }
        counters.accepted();
        let refuse = |reason: Shed, message: Cow<'static, str>| {
            counters.told.shed(reason, 1);
            Refused { reason, message, retry_after: RETRY_AFTER }
        };
        if self.draining.is_cancelled() {
            return Err(refuse(Shed::ShuttingDown, "the engine is shutting down".into()));
        }
        let Some(route) = target.route else {
            return Err(refuse(Shed::Overload, "the function is not deployed".into()));
        };
        let definition = &route.version.load().definition;
        if !definition.is_public && needs_caller(invocation) {
            return Err(refuse(Shed::Forbidden, "the function is not public".into()));
        }
        if invocation.payload.len() as u64 > definition.max_input_bytes {
            let (size, limit) = (invocation.payload.len(), definition.max_input_bytes);
            return Err(refuse(Shed::TooLarge, format!("the payload has {size} bytes, the limit is {limit}").into()));
        }
        // Who asks is told. What nobody waits to be told of is kept all the same, and becomes a dead letter.
        let asks = matches!(invocation.binding.trigger_type, Kind::Http | Kind::Job | Kind::Timer);
        if let Some(demands) = target.demands.filter(|_| asks)
            && let Err(failure) = demands.judge(invocation)
        {
            return Err(refuse(Shed::BadInput, failure.message));
        }
        let gate = self.gates.of_function(&invocation.binding, &route, self.now());
        Ok(Admissible::Queued(counters, gate.max_backlog))
    }

    /// An event that is not kept, since it is not to run.
    fn skip(&self, counters: Arc<Counters>, invocation: InvocationContext, reason: SkipReason) -> Accepted {
        let invocation_id = invocation.invocation_id;
        Running::new(self, counters, invocation).skipped(reason);
        Accepted { skipped: Some(reason), ..Accepted::new(invocation_id) }
    }

    /// Commits events. Where there is room for all of them and for all that waits, those that are due are claimed in the
    /// same commit: they run without being read back.
    pub(super) async fn commit(
        &self,
        queued: &[QueuedInvocation],
        max_backlog: Option<u64>,
    ) -> store::Result<Vec<(Admitted, Option<(Claim, OwnedSemaphorePermit)>)>> {
        let now = self.now();
        let mut permits = self.permits_for(queued, now);
        let lease = (!permits.is_empty()).then(|| Lease { token: Uuid::now_v7(), until: now + self.settings.lease });
        let keep_until = Some(now + self.settings.results_keep);
        let accept = Accept { queued: queued.to_vec(), lease, max_backlog, keep_until };
        let admitted = self.store.accept(accept).await?;
        let claims = admitted.into_iter().zip(queued).map(|(admitted, queued)| {
            let claimed = matches!(admitted, Admitted::New { claimed: true, .. });
            let claim = lease.filter(|_| claimed).and_then(|lease| {
                let invocation = &queued.invocation;
                let (invocation_id, ordered) = (invocation.invocation_id, invocation.ordering().is_some());
                Some((Claim { invocation_id, token: lease.token, ordered }, permits.pop()?))
            });
            (admitted, claim)
        });
        Ok(claims.collect())
    }

    /// Room for these events to run at once, beside what waits: for all of them, or none.
    fn permits_for(&self, queued: &[QueuedInvocation], now: DateTime<Utc>) -> Vec<OwnedSemaphorePermit> {
        let Some(waiting) = self.backlog.waiting() else { return Vec::new() };
        let at_once = !self.draining.is_cancelled()
            && queued.iter().all(|queued| queued.run_at <= now && self.gates.is_open(&queued.invocation.binding, now));
        if !at_once {
            return Vec::new();
        }
        let permits = queued.iter().map_while(|_| self.room.clone().try_acquire_owned().ok());
        let permits: Vec<OwnedSemaphorePermit> = permits.collect();
        let enough = permits.len() == queued.len() && self.room.available_permits() as u64 >= waiting;
        if enough { permits } else { Vec::new() }
    }

    /// What a source is told of its event, and what follows.
    pub(super) fn admitted(
        self: &Arc<Self>,
        counters: &Counters,
        queued: QueuedInvocation,
        (admitted, claim): (Admitted, Option<(Claim, OwnedSemaphorePermit)>),
    ) -> Result<Accepted, Refused> {
        let invocation_id = queued.invocation.invocation_id;
        match admitted {
            Admitted::New { replaced, .. } => {
                if let Some(replaced) = replaced {
                    counters.kept.cancelled();
                    self.ended_cancelled(replaced, &queued.invocation.binding);
                }
                match claim {
                    Some((claim, permit)) => self.start(Claimed { queued, claim }, permit),
                    None => {
                        self.backlog.grew();
                        self.queue_wake.wake();
                    }
                }
                Ok(Accepted::new(invocation_id))
            }
            Admitted::Duplicate(first) => {
                counters.kept.skipped(SkipReason::Duplicate);
                Ok(Accepted::before(first))
            }
            Admitted::Skipped(reason) => {
                counters.kept.skipped(reason);
                Ok(Accepted { skipped: Some(reason), ..Accepted::new(invocation_id) })
            }
            Admitted::Full => {
                counters.kept.shed(Shed::Backlog, 1);
                let message = "as many events of this trigger wait as may".into();
                Err(Refused { reason: Shed::Backlog, message, retry_after: RETRY_AFTER })
            }
        }
    }

    /// Takes an event back, wherever it is.
    pub(super) async fn cancel_event(&self, id: Uuid) -> Result<Cancelled, Refused> {
        let binding = match self.store.status(id).await.map_err(|error| store_refused(&error))? {
            Some(status) => status.binding,
            None => return Ok(Cancelled::Unknown),
        };
        let keep_until = Some(self.now() + self.settings.results_keep);
        let cancelled = self.store.cancel(id, keep_until).await.map_err(|error| store_refused(&error))?;
        match cancelled {
            Cancelled::Cancelled => {
                let binding = Arc::new(binding);
                self.ledger.counters(&binding).kept.cancelled();
                self.ended_cancelled(id, &binding);
            }
            Cancelled::Asked => self.held.cancel(id),
            Cancelled::Ended | Cancelled::Unknown => {}
        }
        Ok(cancelled)
    }

    /// Takes every event of a trigger back that is queued or running and `which` picks.
    pub(super) async fn cancel_all(&self, binding: Binding, which: impl Fn(&QueueRow) -> bool) -> Result<u64, Refused> {
        let mut filter = QueueFilter {
            namespace: Some(binding.namespace.into()),
            function_name: Some(binding.function_name.into()),
            trigger_id: Some(binding.trigger_id.into()),
            trigger_type: Some(binding.trigger_type.as_str().to_owned()),
            after: None,
            limit: store::MAX_PAGE,
        };
        let mut count = 0;
        loop {
            let page = self.store.queue(filter.clone()).await.map_err(|error| store_refused(&error))?;
            for row in page.iter().filter(|row| which(row)) {
                let cancelled = self.cancel_event(row.invocation_id).await?;
                count += u64::from(matches!(cancelled, Cancelled::Cancelled | Cancelled::Asked));
            }
            match page.last() {
                Some(last) if page.len() == store::MAX_PAGE as usize => {
                    filter.after = Some((last.run_at, last.invocation_id));
                }
                _ => return Ok(count),
            }
        }
    }

    pub(super) fn ended_cancelled(&self, id: Uuid, binding: &Binding) {
        self.waiters.ended(id, || Status { binding: binding.clone(), attempts: 0, state: StatusState::Cancelled });
    }
}

/// What an event says under its key.
struct Said {
    binding: Arc<Binding>,
    key: Box<str>,
    fingerprint: Fingerprint,
}

impl Said {
    fn of(invocation: &InvocationContext) -> Option<Self> {
        let fingerprint = invocation.terms.as_ref()?.fingerprint?;
        Some(Self { binding: invocation.binding.clone(), key: invocation.idempotency_key.clone()?, fingerprint })
    }
}

/// Events of one commit, and whose they are.
#[derive(Default)]
struct List {
    places: Vec<(usize, Arc<Counters>)>,
    queued: Vec<QueuedInvocation>,
}

fn refuse_store(counters: &Counters, error: &store::Error) -> Refused {
    counters.told.shed(Shed::StoreUnavailable, 1);
    store_refused(error)
}
