//! Counts the heap allocations of a media thread while calls are live.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use crate::control::metrics::Metrics;

/// A future whose polls are counted (feature `count-allocs`; else it is the future and nothing more).
pub(super) struct Counted<F> {
    future: Pin<Box<F>>,
    #[cfg_attr(not(feature = "count-allocs"), allow(dead_code, reason = "only counted with the feature"))]
    metrics: Arc<Metrics>,
}

impl<F: Future> Counted<F> {
    pub(super) fn new(future: F, metrics: Arc<Metrics>) -> Self {
        Self { future: Box::pin(future), metrics }
    }
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    #[cfg(feature = "count-allocs")]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let mut polled = Poll::Pending;
        let info = allocation_counter::measure(|| polled = pin!(&mut self.future).poll(context));
        self.metrics.add(crate::control::metrics::Counter::MediaAllocations, info.count_total);
        polled
    }

    #[cfg(not(feature = "count-allocs"))]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        pin!(&mut self.future).poll(context)
    }
}

/// Work at the edges of a call, which may allocate.
#[cfg(feature = "count-allocs")]
pub(super) fn apart(work: impl FnOnce()) {
    allocation_counter::opt_out(work);
}

/// Work at the edges of a call, which may allocate.
#[cfg(not(feature = "count-allocs"))]
pub(super) fn apart(work: impl FnOnce()) {
    work();
}
