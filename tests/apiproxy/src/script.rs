//! PURE: which request is met by which fault.

use std::time::Duration;

use http::Method;
use linkemu::random::Random;

/// Which requests a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// All of them.
    Any,
    /// Those that change something.
    Writes,
    /// Those that change the status of an object.
    StatusWrites,
    /// Reads that are no watch.
    Reads,
    /// Streams of events.
    Watches,
}

/// How often a rule applies to the requests that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Often {
    /// Each time.
    Always,
    /// To the last of every so many.
    EveryNth(u64),
    /// To so many of a thousand, by chance.
    PerMille(u64),
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is carried out so much later.
    Delay(Duration),
    /// It is answered with this status and never reaches the API server.
    Refuse(u16),
    /// It is answered 429 with a `Retry-After` of so many seconds, and never reaches the API server.
    Busy(u64),
    /// It is carried out, but the answer is a 500.
    LoseAnswer,
    /// It is carried out, but answered 200 with the page of a proxy.
    Garble,
    /// It is carried out, but the connection breaks in the middle of the answer. Watches are spared: they have no middle.
    CutOff,
    /// A watch ends within its so many-th line.
    Truncate(usize),
    /// A watch says after so many events that its resource version is too old.
    Expire(usize),
    /// A watch is silent for so long after an event, and then tells only the newest state of each object.
    Withhold(Duration),
    /// A watch tells after each event what it told of that object before, and then the event again.
    Replay,
}

impl Fault {
    /// Whether it can befall watches only.
    pub fn is_of_watches(self) -> bool {
        matches!(
            self,
            Self::Truncate(_) | Self::Expire(_) | Self::Withhold(_) | Self::Replay
        )
    }

    fn can_befall(self, watch: bool) -> bool {
        if watch {
            self != Self::CutOff
        } else {
            !self.is_of_watches()
        }
    }
}

/// One rule of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Which requests.
    pub what: What,
    /// How often.
    pub often: Often,
    /// What then.
    pub fault: Fault,
}

/// Rules, and how often each was asked.
#[derive(Debug, Clone)]
pub struct Script {
    rules: Vec<(Rule, u64)>,
    chance: Random,
}

impl Script {
    /// No rules yet.
    pub fn new(seed: u64) -> Self {
        Self {
            rules: Vec::new(),
            chance: Random::new(seed),
        }
    }

    /// These rules from now on.
    pub fn follow(&mut self, rules: Vec<Rule>) {
        self.rules = rules.into_iter().map(|rule| (rule, 0)).collect();
    }

    /// What befalls a request.
    pub fn decide(&mut self, method: &Method, path: &str, query: &str) -> Option<Fault> {
        let watch = is_watch(query);
        for (rule, asked) in &mut self.rules {
            let about = match rule.what {
                What::Any => true,
                What::Writes => is_write(method),
                What::StatusWrites => is_write(method) && path.ends_with("/status"),
                What::Reads => !is_write(method) && !watch,
                What::Watches => watch,
            };
            if !about || !rule.fault.can_befall(watch) {
                continue;
            }
            *asked += 1;
            let applies = match rule.often {
                Often::Always => true,
                Often::EveryNth(n) => asked.is_multiple_of(n.max(1)),
                Often::PerMille(share) => self.chance.any() % 1000 < share,
            };
            if applies {
                return Some(rule.fault);
            }
        }
        None
    }
}

fn is_write(method: &Method) -> bool {
    ![Method::GET, Method::HEAD, Method::OPTIONS].contains(method)
}

/// Whether a request with this query asks for a watch.
pub(crate) fn is_watch(query: &str) -> bool {
    query
        .split('&')
        .any(|pair| pair == "watch=true" || pair == "watch=1" || pair == "watch")
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::{Fault, Often, Rule, Script, What};

    const STATUS: &str = "/apis/shardwright.dev/v1alpha1/namespaces/default/inferencemodels/m/status";

    fn script(rules: &[(What, Often, Fault)]) -> Script {
        let mut script = Script::new(1);
        let rule = |(what, often, fault): &(What, Often, Fault)| Rule {
            what: *what,
            often: *often,
            fault: *fault,
        };
        script.follow(rules.iter().map(rule).collect());
        script
    }

    #[test]
    fn a_rule_meets_the_requests_that_it_is_about() {
        let mut script = script(&[
            (What::StatusWrites, Often::Always, Fault::Refuse(409)),
            (What::Writes, Often::Always, Fault::LoseAnswer),
            (What::Watches, Often::Always, Fault::Replay),
        ]);
        assert_eq!(script.decide(&Method::PATCH, STATUS, ""), Some(Fault::Refuse(409)));
        assert_eq!(
            script.decide(&Method::POST, "/api/v1/events", ""),
            Some(Fault::LoseAnswer)
        );
        assert_eq!(
            script.decide(&Method::GET, "/api/v1/nodes", "limit=5&watch=true"),
            Some(Fault::Replay)
        );
        assert_eq!(script.decide(&Method::GET, "/api/v1/nodes", "limit=5"), None);
    }

    #[test]
    fn what_befalls_watches_only_leaves_other_requests_alone() {
        let mut script = script(&[(What::Any, Often::Always, Fault::Truncate(3))]);
        assert_eq!(script.decide(&Method::GET, "/api/v1/nodes", ""), None);
        assert_eq!(
            script.decide(&Method::GET, "/api/v1/nodes", "watch=1"),
            Some(Fault::Truncate(3))
        );
    }

    #[test]
    fn what_has_no_middle_is_not_cut_off_in_it() {
        let mut script = script(&[(What::Any, Often::Always, Fault::CutOff)]);
        assert_eq!(
            script.decide(&Method::GET, "/api/v1/nodes", "limit=5"),
            Some(Fault::CutOff)
        );
        assert_eq!(script.decide(&Method::GET, "/api/v1/nodes", "watch=1"), None);
    }

    #[test]
    fn every_third_is_the_third_and_the_sixth() {
        let mut script = script(&[(What::Any, Often::EveryNth(3), Fault::Refuse(500))]);
        let met: Vec<bool> = (0..6).map(|_| script.decide(&Method::GET, "/", "").is_some()).collect();
        assert_eq!(met, [false, false, true, false, false, true]);
    }

    #[test]
    fn a_chance_is_the_same_for_the_same_seed() {
        let met = || {
            let mut script = script(&[(What::Any, Often::PerMille(300), Fault::Refuse(500))]);
            (0..1000)
                .filter(|_| script.decide(&Method::GET, "/", "").is_some())
                .count()
        };
        assert_eq!(met(), met());
        assert!((250..350).contains(&met()), "{}", met());
    }
}
