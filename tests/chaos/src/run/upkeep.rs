//! What goes on all the time: parts that ended are started again, figures are taken, progress is told.

use std::time::{Duration, Instant};

use localplane::stack::Part;

use super::{QUIET_LIMIT, Runner, WHOLE_HOLD};
use crate::{Error, Result, flat};

/// How often everything is looked at.
const STEP: Duration = Duration::from_millis(100);
/// From a part's end to its new start: a kubelet takes about as long.
const RESTART_AFTER: Duration = Duration::from_secs(1);
const SPEAK_EVERY: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_secs(5);

impl Runner {
    pub(super) fn say(&mut self, text: &str) {
        println!("[{:7.1} s] {text}", self.started.elapsed().as_secs_f64());
        self.spoken = Instant::now();
    }

    pub(super) fn complain(&mut self, complaint: String) {
        self.say(&format!("WRONG: {complaint}"));
        self.complaints.push(complaint);
    }

    /// Lets time pass, and looks after everything meanwhile.
    pub(super) async fn pass(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            self.keep_up()?;
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            tokio::time::sleep(STEP.min(end - now)).await;
        }
    }

    /// Waits until all has looked whole for a while.
    pub(super) async fn until_whole(&mut self, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        let mut since: Option<Instant> = None;
        loop {
            match self.watch.missing(&mut self.stack).await {
                None if since.get_or_insert_with(Instant::now).elapsed() >= WHOLE_HOLD => return Ok(()),
                None => {}
                Some(missing) if begun.elapsed() >= limit => {
                    let seconds = limit.as_secs();
                    return Err(Error::Other(format!("not whole again after {seconds} s: {missing}")));
                }
                Some(_) => since = None,
            }
            self.pass(STEP).await?;
        }
    }

    fn keep_up(&mut self) -> Result<()> {
        self.restart_ended()?;
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
            self.looked = Some(Instant::now());
            for part in self.stack.parts() {
                if let Some(id) = self.stack.id(&part) {
                    self.lives.look(&part.to_string(), id, self.load.now());
                }
            }
        }
        if self.spoken.elapsed() >= SPEAK_EVERY {
            let progress = self.load.progress();
            self.say(&format!(
                "{} faults, {} answers, {} tokens, {} under way",
                self.faults.len(),
                progress.ended,
                progress.pieces,
                progress.under_way,
            ));
        }
        Ok(())
    }

    fn restart_ended(&mut self) -> Result<()> {
        for part in self.stack.ended() {
            let Some(at) = self.ended.iter().position(|(ended, _)| *ended == part) else {
                if let Some(expected) = self.expected.iter().position(|expected| *expected == part) {
                    self.expected.remove(expected);
                } else {
                    let log = self.stack.log_tail(&part);
                    self.complain(format!("{part} ended by itself; the end of its log:\n{log}"));
                }
                self.ended.push((part, Instant::now()));
                continue;
            };
            if self.ended[at].1.elapsed() >= RESTART_AFTER {
                self.ended.remove(at);
                self.stack.start_again(&part)?;
            }
        }
        Ok(())
    }

    /// What every part holds now.
    pub(super) fn figures(&self) -> Vec<(String, flat::Figures)> {
        let parts = self.stack.parts();
        let figures = parts.iter().filter_map(|part| {
            let figures = flat::Figures::of(self.stack.id(part)?)?;
            Some((part.to_string(), figures))
        });
        figures.collect()
    }

    /// Nothing may be left of what was: no open stream at a gateway, no worker that nobody supervises.
    pub(super) async fn quiet(&mut self) -> Result<()> {
        let begun = Instant::now();
        let left = loop {
            match self.left().await {
                None => return Ok(()),
                Some(left) if begun.elapsed() >= QUIET_LIMIT => break left,
                Some(_) => self.pass(STEP).await?,
            }
        };
        self.complain(format!("{} s after the last answer: {left}", QUIET_LIMIT.as_secs()));
        Ok(())
    }

    async fn left(&mut self) -> Option<String> {
        if let Some(missing) = self.watch.missing(&mut self.stack).await {
            return Some(missing);
        }
        let parts = self.stack.parts();
        for part in parts.iter().filter(|part| matches!(part, Part::Gateway(_))) {
            let metrics = self.watch.metrics(&self.stack, part).await.unwrap_or_default();
            let open = metrics.get("shardwright_gateway_active_streams").copied();
            if open != Some(0.0) {
                return Some(format!("{part} has {open:?} open streams"));
            }
        }
        self.watch.surplus(&self.stack).await
    }
}
