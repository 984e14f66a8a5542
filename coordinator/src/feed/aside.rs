//! Where the bodies of the feed's calls run: on the runtime of the API, not on the one on which their
//! connections were accepted, which is that of Raft's heartbeats.

use maia_common::runtime::Tasks;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tonic::Status;

/// A runtime, and the owner of what runs there.
pub(super) struct Aside {
    pub(super) tasks: Tasks,
    pub(super) runtime: Handle,
}

impl Aside {
    /// Runs the body there; ends it when nobody waits for its answer any more.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        body: impl Future<Output = Result<T, Status>> + Send + 'static,
    ) -> Result<T, Status> {
        let (mut told, answer) = oneshot::channel();
        let task = async move {
            let answer = tokio::select! {
                answer = body => answer,
                () = told.closed() => return,
            };
            drop(told.send(answer));
        };
        self.tasks
            .spawn_until_stop_on(&self.runtime, "feed call", task);
        let stopping = |_| Err(Status::unavailable("the coordinator is stopping"));
        answer.await.unwrap_or_else(stopping)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;

    fn runtime(name: &str) -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let builder = builder.worker_threads(1).thread_name(name);
        builder.enable_all().build().unwrap()
    }

    #[test]
    fn a_call_runs_beside_the_api_and_ends_with_who_asked() {
        let (main, control) = (runtime("main"), runtime("control"));
        let (tasks, runtime) = (Tasks::new(), main.handle().clone());
        let aside = Aside { tasks, runtime };
        let (alive, mut ended) = mpsc::channel::<()>(1);
        control.block_on(async move {
            let body = async { Ok(std::thread::current().name().map(str::to_owned)) };
            let thread = aside.run(body).await.unwrap();
            assert_eq!(thread.as_deref(), Some("main"));
            let never = async move {
                let _alive = alive;
                std::future::pending::<Result<(), Status>>().await
            };
            let asked = tokio::time::timeout(Duration::from_millis(20), aside.run(never));
            assert!(asked.await.is_err());
            let gone = tokio::time::timeout(Duration::from_secs(5), ended.recv());
            assert_eq!(gone.await, Ok(None), "the body is dropped");
        });
    }
}
