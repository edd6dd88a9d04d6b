//! Every backend behind the one face: a thread of its own makes a driver's calls in the order in which they were asked,
//! and the book of handles is kept in one place for all of them.

mod abandoned;
mod book;

use crate::driver::{Driver, Span};
use crate::{Backend, BackendError, GpuBackend, GpuDevice, MemoryHandle, MemoryInfo};
use abandoned::Abandoned;
use book::Book;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

/// Calls that wait for a driver. A caller that finds the queue full waits too: more would only hide a stuck driver.
const QUEUE_MAX: usize = 64;

/// A call: the driver, and the book of what was allocated.
type Call = Box<dyn FnOnce(&mut Worker) + Send>;

/// What becomes of a call whose caller is gone before it is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unwanted {
    Do,
    Skip,
}

/// What the thread owns.
struct Worker {
    driver: Box<dyn Driver>,
    book: Book,
    abandoned: Abandoned,
    open: bool,
    /// As the driver said last: listing them anew for every call would cost more than the call.
    count: usize,
}

/// A driver with a thread of its own. The thread ends, and frees everything, when this is dropped.
pub struct Queued {
    backend: Backend,
    calls: mpsc::Sender<Call>,
    abandoned: Abandoned,
}

impl Queued {
    /// Starts the driver's thread; the library is loaded by [`GpuBackend::initialize`].
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn new(driver: Box<dyn Driver>) -> Result<Self, BackendError> {
        let backend = driver.backend();
        let (calls, mut queue) = mpsc::channel::<Call>(QUEUE_MAX);
        let abandoned = Abandoned::default();
        let mut worker = Worker {
            driver,
            book: Book::new(backend),
            abandoned: abandoned.clone(),
            open: false,
            count: 0,
        };
        std::thread::Builder::new()
            .name(format!("device-{}", backend.name()))
            .spawn(move || {
                while let Some(call) = queue.blocking_recv() {
                    worker.free_abandoned();
                    call(&mut worker);
                }
                // Nobody is left to tell.
                let _ = worker.close();
            })
            .map_err(|error| BackendError::Unavailable {
                backend,
                reason: format!("no thread for its driver: {error}"),
            })?;
        Ok(Self {
            backend,
            calls,
            abandoned,
        })
    }

    /// Has `call` made on the driver's thread.
    async fn call<T: Send + 'static>(
        &self,
        unwanted: Unwanted,
        call: impl FnOnce(&mut Worker) -> Result<T, BackendError> + Send + 'static,
    ) -> Result<T, BackendError> {
        let gone = || BackendError::Unavailable {
            backend: self.backend,
            reason: "its driver's thread has ended".to_owned(),
        };
        let (answer, answered) = oneshot::channel();
        // Those who wait for a place get it in the order in which they came. Without "unconstrained" the runtime sends a
        // caller who asks for much at once away before it is in that order.
        let place = tokio::task::unconstrained(self.calls.reserve()).await;
        let place = place.map_err(|_| gone())?;
        place.send(Box::new(move |worker| {
            if !(answer.is_closed() && unwanted == Unwanted::Skip) {
                // Whoever waited may be gone by now.
                let _ = answer.send(call(worker));
            }
        }));
        answered.await.map_err(|_| gone())?
    }

    /// A call to an open driver, whose result is nobody's loss.
    async fn open<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Worker) -> Result<T, BackendError> + Send + 'static,
    ) -> Result<T, BackendError> {
        self.call(Unwanted::Do, move |worker| call(worker.opened()?)).await
    }

    /// The same about one device.
    async fn about<T: Send + 'static>(
        &self,
        device: u32,
        call: impl FnOnce(&mut dyn Driver) -> Result<T, BackendError> + Send + 'static,
    ) -> Result<T, BackendError> {
        self.open(move |worker| {
            worker.exists(device)?;
            call(worker.driver.as_mut())
        })
        .await
    }
}

impl Worker {
    fn opened(&mut self) -> Result<&mut Self, BackendError> {
        if self.open {
            Ok(self)
        } else {
            Err(BackendError::NotInitialised {
                backend: self.driver.backend(),
            })
        }
    }

    fn initialize(&mut self) -> Result<(), BackendError> {
        if !self.open {
            self.driver.open()?;
            self.open = true;
            let listed = self.devices();
            if let Err(error) = listed {
                // The reason why it is of no use is the first error.
                let _ = self.close();
                return Err(error);
            }
        }
        Ok(())
    }

    fn devices(&mut self) -> Result<Vec<GpuDevice>, BackendError> {
        let devices = self.driver.devices()?;
        self.count = devices.len();
        Ok(devices)
    }

    fn exists(&self, device: u32) -> Result<(), BackendError> {
        if (device as usize) < self.count {
            Ok(())
        } else {
            Err(BackendError::NoSuchDevice {
                backend: self.driver.backend(),
                device,
                count: self.count,
            })
        }
    }

    fn close(&mut self) -> Result<(), BackendError> {
        if !self.open {
            return Ok(());
        }
        self.open = false;
        let mut outcome = Ok(());
        for (device, block) in self.book.empty() {
            outcome = outcome.and(self.driver.free(device, block));
        }
        outcome.and(self.driver.close())
    }

    /// Gives back what was allocated for callers who did not stay for the answer.
    fn free_abandoned(&mut self) {
        for id in self.abandoned.drain() {
            if let Some((device, block)) = self.book.strike_abandoned(id) {
                // The driver's complaint has no reader.
                let _ = self.driver.free(device, block);
            }
        }
    }

    fn allocate(&mut self, id: Uuid, device: u32, size_bytes: u64) -> Result<MemoryHandle, BackendError> {
        self.exists(device)?;
        // Drivers differ about nothing; here it is a handle without a block.
        let block = match size_bytes {
            0 => None,
            bytes => Some(self.driver.allocate(device, bytes)?),
        };
        Ok(self.book.enter(id, device, size_bytes, block))
    }

    fn deallocate(&mut self, handle: &MemoryHandle) -> Result<(), BackendError> {
        match self.book.strike(handle)? {
            Some(block) => self.driver.free(handle.device, block),
            None => Ok(()),
        }
    }

    fn copy(&mut self, from: (&MemoryHandle, u64), to: (&MemoryHandle, u64), bytes: u64) -> Result<(), BackendError> {
        let source = self.book.span(from.0, from.1, bytes)?;
        let target = self.book.span(to.0, to.1, bytes)?;
        match (source, target) {
            (Some(source), Some(target)) => self.driver.copy(source, target, bytes),
            _ => Ok(()),
        }
    }

    fn read(&mut self, span: Option<Span>, bytes: u64) -> Result<Vec<u8>, BackendError> {
        let Some(span) = span else { return Ok(Vec::new()) };
        // Bounded by the allocation that the span lies in.
        let mut content = Vec::new();
        content
            .try_reserve_exact(bytes as usize)
            .map_err(|_| BackendError::OutOfMemory {
                device: "main memory".to_owned(),
                wanted_bytes: bytes,
                free_bytes: 0,
            })?;
        content.resize(bytes as usize, 0);
        self.driver.read(span, &mut content)?;
        Ok(content)
    }
}

#[async_trait::async_trait]
impl GpuBackend for Queued {
    async fn initialize(&self) -> Result<(), BackendError> {
        self.call(Unwanted::Do, Worker::initialize).await
    }

    async fn shutdown(&self) -> Result<(), BackendError> {
        self.call(Unwanted::Do, Worker::close).await
    }

    async fn list_devices(&self) -> Result<Vec<GpuDevice>, BackendError> {
        self.open(Worker::devices).await
    }

    async fn get_device(&self, device: u32) -> Result<GpuDevice, BackendError> {
        self.open(move |worker| {
            let found = worker.devices()?.into_iter().nth(device as usize);
            worker.exists(device)?;
            found.ok_or(BackendError::NoSuchDevice {
                backend: worker.driver.backend(),
                device,
                count: worker.count,
            })
        })
        .await
    }

    async fn allocate(&self, device: u32, size_bytes: u64) -> Result<MemoryHandle, BackendError> {
        let id = Uuid::new_v4();
        // Outlives the wait: by the time it counts as abandoned, the call can see that nobody waits.
        let pending = self.abandoned.pending(id);
        let outcome = self
            .call(Unwanted::Skip, move |worker| {
                worker.opened()?.allocate(id, device, size_bytes)
            })
            .await;
        pending.taken();
        outcome
    }

    async fn deallocate(&self, handle: &MemoryHandle) -> Result<(), BackendError> {
        let handle = handle.clone();
        self.open(move |worker| worker.deallocate(&handle)).await
    }

    async fn copy_to_device(&self, handle: &MemoryHandle, offset: u64, bytes: Arc<[u8]>) -> Result<(), BackendError> {
        let handle = handle.clone();
        self.open(
            move |worker| match worker.book.span(&handle, offset, bytes.len() as u64)? {
                Some(span) => worker.driver.write(span, &bytes),
                None => Ok(()),
            },
        )
        .await
    }

    async fn copy_from_device(&self, handle: &MemoryHandle, offset: u64, bytes: u64) -> Result<Vec<u8>, BackendError> {
        let handle = handle.clone();
        self.open(move |worker| {
            let span = worker.book.span(&handle, offset, bytes)?;
            worker.read(span, bytes)
        })
        .await
    }

    async fn copy_device_to_device(
        &self,
        from: &MemoryHandle,
        from_offset: u64,
        to: &MemoryHandle,
        to_offset: u64,
        bytes: u64,
    ) -> Result<(), BackendError> {
        let (from, to) = (from.clone(), to.clone());
        self.open(move |worker| worker.copy((&from, from_offset), (&to, to_offset), bytes))
            .await
    }

    async fn synchronize(&self, device: u32) -> Result<(), BackendError> {
        self.about(device, move |driver| driver.synchronize(device)).await
    }

    async fn memory_info(&self, device: u32) -> Result<MemoryInfo, BackendError> {
        self.about(device, move |driver| driver.memory(device)).await
    }

    async fn temperature(&self, device: u32) -> Result<Option<f32>, BackendError> {
        self.about(device, move |driver| driver.temperature(device)).await
    }

    async fn power_usage(&self, device: u32) -> Result<Option<f32>, BackendError> {
        self.about(device, move |driver| driver.power(device)).await
    }

    async fn clock_rate(&self, device: u32) -> Result<Option<u32>, BackendError> {
        self.about(device, move |driver| driver.clock(device)).await
    }
}

#[cfg(test)]
mod tests;
