//! Decodes that end before they are through: ggml asks after each node that a processor has computed whether to go on.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use llama_cpp_sys_2 as sys;

use super::Context;
use crate::ffi::log;

/// When decodes end early, and how far they came. Devices other than processors never ask.
#[derive(Debug)]
pub(crate) struct Interrupt {
    computed: AtomicU64,
    /// So many nodes are computed in any case, and none that begins after the moment.
    after: Option<(u64, Instant)>,
    ended: AtomicBool,
}

impl Interrupt {
    /// Only counts.
    pub(crate) fn never() -> Self {
        Self {
            computed: AtomicU64::new(0),
            after: None,
            ended: AtomicBool::new(false),
        }
    }

    /// Ends what is computed once it has that many nodes and the moment is over.
    pub(crate) fn after(nodes: u64, moment: Instant) -> Self {
        Self {
            after: Some((nodes, moment)),
            ..Self::never()
        }
    }

    /// Nodes that were computed.
    pub(crate) fn computed(&self) -> u64 {
        self.computed.load(Ordering::Relaxed)
    }

    /// Whether a decode was ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// One node more; whether to end.
    fn node(&self) -> bool {
        let computed = self.computed.fetch_add(1, Ordering::Relaxed) + 1;
        let ends = self
            .after
            .is_some_and(|(nodes, moment)| computed >= nodes && moment <= Instant::now());
        if ends {
            self.ended.store(true, Ordering::Relaxed);
        }
        ends
    }
}

impl Context {
    /// Decodes end as it says from here on; `None`: when they are through. A decode that was ended is an error like any other.
    pub(crate) fn interrupt(&mut self, interrupt: Option<Arc<Interrupt>>) {
        let user = interrupt.as_ref().map_or(std::ptr::null_mut(), |interrupt| {
            Arc::as_ptr(interrupt).cast_mut().cast::<c_void>()
        });
        let asked: sys::ggml_abort_callback = interrupt.as_ref().map(|_| ends as unsafe extern "C" fn(_) -> _);
        // SAFETY: a live context, which decodes nothing now; what it is to pass on lives until it has something else to pass on,
        // or until the context is gone.
        unsafe { sys::llama_set_abort_callback(self.context.as_ptr(), asked, user) };
        log::expect_errors(false);
        self.interrupt = interrupt;
    }
}

/// ggml's abort callback.
///
/// # Safety
/// For ggml to call, with an [`Interrupt`] as its user data.
unsafe extern "C" fn ends(user: *mut c_void) -> bool {
    // SAFETY: the context keeps the interrupt for as long as llama.cpp has its address, and nobody changes it but by atomics.
    let ends = unsafe { user.cast::<Interrupt>().as_ref() }.is_some_and(Interrupt::node);
    if ends {
        // The thread that asks is the one that decodes, and the one that will say that it failed.
        log::expect_errors(true);
    }
    ends
}
