//! Threads for calls that may hang, each call with a deadline: `mongo-write-{i}` and `mongo-read-{i}`, at most two
//! each.
//!
//! A blocked call of the driver cannot be cancelled: it has no deadline, and a stopped server may hold it for ever. So
//! a caller hands the call to a thread and waits as long as it has time; then the call is *abandoned* on its thread,
//! and the next one goes to the other thread. If both are abandoned, a caller learns at once that no thread is free; a
//! third thread is never made.
//!
//! Invariants: a thread has one call at a time and no queue; a thread is started when it is first needed and ends when
//! the pool is dropped. If it hangs, it ends with its call, or with the process when `main` returns, whichever comes
//! first. Knows nothing of MongoDB.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::logging;
use crate::thread;

/// One that works while the other hangs. More would only wait for the same server.
const THREADS_MAX: usize = 2;

type Job = Box<dyn FnOnce() + Send>;

/// Why a call brought no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Every thread is taken: at once if by abandoned calls, else at the deadline. The call was not begun; a retry is
    /// safe.
    #[error("the calls before have not returned")]
    Busy,
    /// The deadline passed first. The call goes on and may still do its work.
    #[error("the call did not return in time")]
    Late,
    /// The call panicked, or the system gives no more threads.
    #[error("the call could not be carried out")]
    Failed,
}

/// A moment between calls, for [`Calls::is_settled`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

/// The threads of one kind of call.
pub struct Calls {
    name: &'static str,
    shared: Arc<CallSlots>,
}

#[derive(Debug)]
struct CallSlots {
    inner: Mutex<CallThreads>,
    /// A thread became free, or was abandoned.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct CallThreads {
    threads: Vec<CallThread>,
    /// The number of the next call.
    next: u64,
}

#[derive(Debug)]
struct CallThread {
    jobs: Sender<Job>,
    thread: JoinHandle<()>,
    running: Option<RunningCall>,
}

#[derive(Debug)]
struct RunningCall {
    number: u64,
    abandoned: bool,
}

impl CallSlots {
    /// Never held during a call.
    fn lock(&self) -> MutexGuard<'_, CallThreads> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn returned(&self, number: u64) {
        let mut inner = self.lock();
        if let Some(worker) = inner.worker(number) {
            worker.running = None;
        }
        drop(inner);
        self.changed.notify_all();
    }

    fn abandon(&self, number: u64) {
        let mut inner = self.lock();
        let Some(running) = inner.worker(number).and_then(|worker| worker.running.as_mut()) else { return };
        running.abandoned = true;
        drop(inner);
        self.changed.notify_all();
    }
}

impl CallThreads {
    /// The thread that runs that call.
    fn worker(&mut self, number: u64) -> Option<&mut CallThread> {
        self.threads.iter_mut().find(|worker| worker.running.as_ref().is_some_and(|running| running.number == number))
    }

    fn running(&self) -> impl Iterator<Item = &RunningCall> {
        self.threads.iter().filter_map(|worker| worker.running.as_ref())
    }
}

impl Calls {
    /// A pool whose threads are called `NAME-0` and `NAME-1`. Starts none yet.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self { name, shared: Arc::new(CallSlots { inner: Mutex::default(), changed: Condvar::new() }) }
    }

    /// Hands a call to a free thread; waits for one until the deadline if a taken one may still return in time.
    ///
    /// # Errors
    /// [`CallError::Busy`] or [`CallError::Failed`]; the call was not begun.
    pub fn submit<T: Send + 'static>(
        &self,
        deadline: Instant,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Call<T>, CallError> {
        let mut inner = self.shared.lock();
        let at = loop {
            if let Some(free) = inner.threads.iter().position(|worker| worker.running.is_none()) {
                break free;
            }
            if inner.threads.len() < THREADS_MAX {
                break self.start(&mut inner)?;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || inner.running().all(|running| running.abandoned) {
                return Err(CallError::Busy);
            }
            inner = self.shared.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        let number = inner.next;
        inner.next += 1;
        let (send, outcome) = bounded(1);
        let shared = Arc::clone(&self.shared);
        let request = logging::current();
        let job = Box::new(move || {
            let _entered = logging::enter(request);
            let result = catch_unwind(AssertUnwindSafe(call));
            // First, so that the receiver of the result finds the call settled.
            shared.returned(number);
            if let Ok(result) = result {
                // The receiver may be gone.
                let _ = send.send(result);
            }
        });
        // There is space: a free thread has taken its last job, and only this lock gives it another.
        inner.threads[at].jobs.send(job).expect("a thread lives as long as its sender");
        inner.threads[at].running = Some(RunningCall { number, abandoned: false });
        Ok(Call { number, outcome, shared: Arc::clone(&self.shared) })
    }

    fn start(&self, inner: &mut CallThreads) -> Result<usize, CallError> {
        let (jobs, queue) = bounded::<Job>(1);
        let at = inner.threads.len();
        let run = move || queue.into_iter().for_each(|job| job());
        let thread = thread::spawn(format!("{}-{at}", self.name), run).map_err(|error| {
            log::error!("the thread {}-{at} cannot be started: {error}", self.name);
            CallError::Failed
        })?;
        inner.threads.push(CallThread { jobs, thread, running: None });
        Ok(at)
    }

    /// Calls that were abandoned and have not returned.
    #[must_use]
    pub fn abandoned(&self) -> usize {
        self.shared.lock().running().filter(|running| running.abandoned).count()
    }

    /// The current moment: after every call submitted so far, before every later one.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.shared.lock().next)
    }

    /// Whether every call submitted before `mark` has returned, abandoned ones included. (Of a call that failed the server
    /// may still do the work, see [`super::Store`].)
    #[must_use]
    pub fn is_settled(&self, mark: Mark) -> bool {
        self.shared.lock().running().all(|running| running.number >= mark.0)
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        let threads = std::mem::take(&mut self.shared.lock().threads);
        for CallThread { jobs, thread, running } in threads {
            drop(jobs);
            if running.is_none() {
                // It caught its calls' panics.
                let _ = thread.join();
            }
        }
    }
}

/// A call under way. Dropping it before it has returned abandons it.
#[derive(Debug)]
pub struct Call<T> {
    number: u64,
    outcome: Receiver<T>,
    shared: Arc<CallSlots>,
}

impl<T> Call<T> {
    /// Waits for the result; at the deadline the call is abandoned.
    ///
    /// # Errors
    /// [`CallError::Late`] or [`CallError::Failed`]: the call may have done its work.
    pub fn wait(self, deadline: Instant) -> Result<T, CallError> {
        self.outcome.recv_deadline(deadline).map_err(|error| match error {
            RecvTimeoutError::Timeout => CallError::Late,
            RecvTimeoutError::Disconnected => CallError::Failed,
        })
    }

    /// Counts it as abandoned from now on, while its result can still be taken.
    pub fn abandon(&self) {
        self.shared.abandon(self.number);
    }

    /// The channel of the result, for a select; it closes without one if the call panicked.
    #[must_use]
    pub fn outcome(&self) -> &Receiver<T> {
        &self.outcome
    }
}

impl<T> Drop for Call<T> {
    fn drop(&mut self) {
        self.abandon();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// A call that hangs until the sender is dropped.
    fn stuck(calls: &Calls) -> (Sender<()>, Call<&'static str>) {
        let (release, held) = bounded::<()>(0);
        let call = calls.submit(soon(), move || {
            let _ = held.recv();
            "late"
        });
        (release, call.unwrap())
    }

    #[test]
    fn a_call_returns_its_result_from_a_named_thread() {
        let calls = Calls::new("mongo-test");
        for _ in 0..3 {
            let name = calls.submit(soon(), || std::thread::current().name().map(str::to_owned)).unwrap();
            assert_eq!(name.wait(soon()).unwrap().as_deref(), Some("mongo-test-0"));
        }
        assert_eq!(calls.abandoned(), 0);
    }

    #[test]
    fn a_late_call_is_abandoned_and_the_next_goes_to_the_other_thread() {
        let calls = Calls::new("mongo-test");
        let (release, late) = stuck(&calls);
        assert_eq!(late.wait(Instant::now()), Err(CallError::Late));
        assert_eq!(calls.abandoned(), 1);
        let name = calls.submit(soon(), || std::thread::current().name().map(str::to_owned)).unwrap();
        assert_eq!(name.wait(soon()).unwrap().as_deref(), Some("mongo-test-1"));
        drop(release);
    }

    #[test]
    fn with_both_threads_stuck_a_caller_learns_it_at_once_until_one_returns() {
        let calls = Calls::new("mongo-test");
        let (release, first) = stuck(&calls);
        let (_release, second) = stuck(&calls);
        let before = calls.mark();
        drop((first, second));
        let began = Instant::now();
        assert_eq!(calls.submit(soon(), || ()).err(), Some(CallError::Busy));
        assert!(began.elapsed() < Duration::from_secs(30), "it waited for nothing");
        assert!(!calls.is_settled(before));
        drop(release);
        while calls.abandoned() == 2 {
            std::thread::yield_now();
        }
        assert_eq!(calls.submit(soon(), || 7).unwrap().wait(soon()), Ok(7));
        assert!(!calls.is_settled(before), "the other is still on its way");
    }

    #[test]
    fn a_caller_waits_for_a_thread_that_may_still_return_in_time() {
        let calls = Calls::new("mongo-test");
        let ((release, first), (_release, _second)) = (stuck(&calls), stuck(&calls));
        assert_eq!(calls.submit(Instant::now(), || ()).err(), Some(CallError::Busy));
        let result = std::thread::scope(|scope| {
            let third = scope.spawn(|| calls.submit(soon(), || 3).unwrap().wait(soon()));
            drop(release);
            assert_eq!(first.wait(soon()), Ok("late"));
            third.join().unwrap()
        });
        assert_eq!(result, Ok(3));
    }

    #[test]
    fn a_mark_is_settled_when_every_call_before_it_has_returned() {
        let calls = Calls::new("mongo-test");
        assert!(calls.is_settled(calls.mark()));
        let (release, call) = stuck(&calls);
        let mark = calls.mark();
        assert!(!calls.is_settled(mark));
        drop(release);
        assert_eq!(call.wait(soon()), Ok("late"));
        assert!(calls.is_settled(mark));
        let (_release, _later) = stuck(&calls);
        assert!(calls.is_settled(mark), "a later call is nothing to it");
    }

    #[test]
    fn a_panic_ends_its_call_and_not_its_thread() {
        let calls = Calls::new("mongo-test");
        let call = calls.submit(soon(), || panic!("a test's own")).unwrap();
        assert_eq!(call.wait(soon()), Err(CallError::Failed));
        let name = calls.submit(soon(), || std::thread::current().name().map(str::to_owned)).unwrap();
        assert_eq!(name.wait(soon()).unwrap().as_deref(), Some("mongo-test-0"));
    }

    #[test]
    fn a_dropped_pool_ends_its_threads_and_waits_for_no_stuck_one() {
        let calls = Calls::new("mongo-test");
        let (ended, end) = bounded::<()>(0);
        let (release, call) = stuck(&calls);
        calls
            .submit(soon(), move || {
                thread_local!(static ENDS: std::cell::RefCell<Option<Sender<()>>> = const { std::cell::RefCell::new(None) });
                ENDS.set(Some(ended));
            })
            .unwrap()
            .wait(soon())
            .unwrap();
        drop(call);
        drop(calls);
        assert_eq!(end.recv_deadline(soon()), Err(RecvTimeoutError::Disconnected), "the free thread has ended");
        drop(release);
    }
}
