//! Work on a task of its own, for handlers whose work takes longer than a message may.

use tokio::{sync::oneshot, task::JoinSet};
use tower_lsp_server::jsonrpc::{Error, Result};

/// Does `work` beside everything else, so that the next message is read meanwhile; none if `stop` resolves first, or its
/// sender is gone. The task ends when this future is dropped.
///
/// # Errors
/// An internal error if the work panics.
pub(super) async fn run<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
    stop: oneshot::Receiver<()>,
) -> Result<Option<T>> {
    let mut tasks = JoinSet::new();
    tasks.spawn(work);
    tokio::select! {
        biased;
        _ = stop => Ok(None),
        joined = tasks.join_next() => match joined {
            Some(Ok(done)) => Ok(Some(done)),
            Some(Err(error)) if error.is_panic() => Err(Error::internal_error()),
            Some(Err(_)) | None => Ok(None),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_answered() {
        let (_turn, stop) = oneshot::channel();
        let answer: Result<Option<()>> = run(async { panic!("a bug") }, stop).await;
        assert_eq!(answer.unwrap_err(), Error::internal_error());
    }
}
