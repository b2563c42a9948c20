//! How long a draft should be: measured acceptance against the measured price of a wider step.
//!
//! The choice changes how fast text appears, never the text: verification is lossless.

use std::time::Duration;

use super::drafter::{Draft, Evidence, PRIOR_RATES};

/// Longest draft that the policy asks for.
pub(crate) const MAX_DRAFT: usize = 128;

/// How often the tokens that one drafter proposes for one sequence turn out right, apart for each class of evidence.
///
/// Counts decay, so what happened some dozens of tokens ago fades, and start from a prior worth a few observations.
#[derive(Debug, Clone)]
pub(crate) struct Acceptance {
    classes: [AcceptanceClass; Evidence::N],
}

#[derive(Debug, Clone, Copy)]
struct AcceptanceClass {
    accepted: f64,
    examined: f64,
}

/// Observations that the prior is worth.
const PRIOR_WEIGHT: f64 = 2.0;
/// What is left of the old counts after one more token.
const DECAY: f64 = 0.97;

impl Default for Acceptance {
    fn default() -> Self {
        let classes = PRIOR_RATES.map(|rate| AcceptanceClass {
            accepted: rate * PRIOR_WEIGHT,
            examined: PRIOR_WEIGHT,
        });
        Self { classes }
    }
}

impl Acceptance {
    /// Learns from the tokens that followed: every node that could have been right was or was not. Returns how many were
    /// drafted.
    pub(crate) fn learn(&mut self, draft: &Draft, followed: &[u32]) -> usize {
        let mut at = None;
        for (n_right, &token) in followed.iter().enumerate() {
            let mut next = None;
            for (idx, node) in draft.children(at) {
                let is_right = node.token == token;
                self.observe(node.evidence, is_right);
                next = next.or(is_right.then_some(idx));
            }
            if next.is_none() {
                return n_right;
            }
            at = next;
        }
        followed.len()
    }

    fn observe(&mut self, evidence: Evidence, is_right: bool) {
        let class = &mut self.classes[evidence.class()];
        class.accepted = class.accepted * DECAY + f64::from(u8::from(is_right));
        class.examined = class.examined * DECAY + 1.0;
    }

    /// Probability that a token with this evidence is right if its parent is. Below 1, however well it went.
    pub(crate) fn rate(&self, evidence: Evidence) -> f64 {
        let class = self.classes[evidence.class()];
        ((class.accepted + 0.05) / (class.examined + 0.1)).min(0.99)
    }

    /// The nodes of `draft` with the probability that each is reached and right, the likeliest first, in place of what
    /// `ranking` holds. A node never comes before its parent.
    pub(crate) fn rank(&self, draft: &Draft, ranking: &mut Vec<RankedNode>) {
        ranking.clear();
        for (idx, node) in draft.nodes().iter().enumerate() {
            let reached = node.parent.map_or(1.0, |parent| ranking[parent].reach);
            ranking.push(RankedNode {
                idx,
                reach: reached * self.rate(node.evidence),
            });
        }
        ranking.sort_by(|a, b| b.reach.total_cmp(&a.reach));
    }
}

/// A node of a draft, and the probability that all from the root to it is right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RankedNode {
    pub(crate) idx: usize,
    pub(crate) reach: f64,
}

/// How well the drafts of a network did: what one sequence learned is where the next one starts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Experience {
    pub(crate) acceptance: Acceptance,
    pub(crate) gain: Gain,
}

/// What the drafts of a network gain, for the decision to ask for one.
#[derive(Debug, Clone)]
pub(crate) struct Gain {
    /// Decayed mean of tokens that a draft got right.
    n_right: f64,
    /// Decayed mean of rows that a draft adds to a step.
    n_proposed: f64,
    /// Steps since the last draft.
    n_idle: u32,
}

/// Steps after which a network that did not pay is asked again.
const PROBE_INTERVAL: u32 = 48;
/// Weight of a new outcome.
const GAIN_RECENCY: f64 = 0.15;

impl Default for Gain {
    fn default() -> Self {
        // A guess until measured: networks are given to the engine because they help.
        Self {
            n_right: 2.0,
            n_proposed: 4.0,
            n_idle: 0,
        }
    }
}

impl Gain {
    /// Whether a draft that takes `draft_seconds` should pay in this step. Once in a while one is made anyway: things
    /// may have changed.
    pub(crate) fn is_worth_asking(&mut self, load: StepLoad, costs: &StepCosts, draft_seconds: f64) -> bool {
        let n_rows = load.n_rows + self.n_proposed.round() as usize;
        let drafted = (load.n_tokens + self.n_right) / (costs.estimate(n_rows) + draft_seconds);
        let asks = drafted > load.speed(costs) || self.n_idle >= PROBE_INTERVAL;
        self.n_idle = if asks { 0 } else { self.n_idle + 1 };
        asks
    }

    pub(crate) fn note_proposal(&mut self, n_proposed: usize) {
        self.n_proposed += GAIN_RECENCY * (n_proposed as f64 - self.n_proposed);
    }

    pub(crate) fn note_outcome(&mut self, n_right: usize) {
        self.n_right += GAIN_RECENCY * (n_right as f64 - self.n_right);
    }
}

/// What a network gives whole requests, after all that it takes: some read every prompt, whether they are asked or not.
#[derive(Debug, Default)]
pub(crate) struct Balance {
    /// Decayed mean of seconds that a request was shorter by; none before the first.
    saved: Option<f64>,
    /// Requests since the last one that it drafted for.
    n_passed_over: u32,
}

/// Requests after which a network that cost more than it gave is tried again.
const TRIAL_INTERVAL: u32 = 16;
/// Weight of a new request.
const BALANCE_RECENCY: f64 = 0.3;

impl Balance {
    /// Whether the network should draft for the next request.
    pub(crate) fn is_worth_using(&mut self) -> bool {
        let is_worth = self.saved.is_none_or(|it| it >= 0.0) || self.n_passed_over >= TRIAL_INTERVAL;
        self.n_passed_over = if is_worth { 0 } else { self.n_passed_over + 1 };
        is_worth
    }

    /// Learns from a request in whose `n_steps` steps with drafts of the network `n_proposed` tokens were proposed and `n_accepted` of
    /// them right, and for which it took `seconds` in all.
    pub(crate) fn note(
        &mut self,
        n_steps: usize,
        n_proposed: usize,
        n_accepted: usize,
        seconds: f64,
        costs: &StepCosts,
    ) {
        let step = costs.estimate(1);
        let width = 1 + n_proposed.div_ceil(n_steps.max(1));
        let widening = (costs.estimate(width) - step) * n_steps as f64;
        let saved = n_accepted as f64 * step - widening - seconds;
        self.saved = Some(match self.saved {
            None => saved,
            // One long request counts as one.
            Some(mean) => mean + BALANCE_RECENCY * (saved.clamp(-4.0 * mean.abs(), 4.0 * mean.abs()) - mean),
        });
    }
}

/// What one forward pass that verifies drafts costs by its number of rows, as measured on this model and machine: first
/// while the engine has nothing to do, then by every such pass.
///
/// Widths fall into buckets; between measured buckets the cost is interpolated, beyond the last one it grows as it does
/// elsewhere, so that wide steps are tried and then measured.
#[derive(Debug, Default)]
pub(crate) struct StepCosts {
    /// Decayed mean of seconds, by bucket; `None` until measured.
    seconds: [Option<f64>; WIDTHS.len()],
}

/// Rows in a step, one bucket each; a step counts for the nearest bucket at or above its width.
const WIDTHS: [usize; 14] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256];
/// Cost of a further row before anything is known, as a share of what a step of one row costs: what it is for small models,
/// whose weights are soon read. For large ones it is a third of that; but those have long steps, of which the first few tell.
const PRIOR_SLOPE: f64 = 0.07;
/// Weight of a new measurement.
const RECENCY: f64 = 0.25;
/// A wide step that was slow by accident must not stay unused for ever: with each step, the buckets that are not
/// used move by this share towards what the narrower ones suggest.
const FORGETTING: f64 = 0.002;

/// A step that takes longer is not run only to measure it, in seconds: a request that arrives meanwhile waits for it.
const LONGEST_MEASUREMENT: f64 = 0.3;

impl StepCosts {
    /// Rows of the step to measure next, if there is one left: no draft needs more, and where steps take long the wider
    /// ones are measured by their use.
    pub(crate) fn unmeasured_width(&self) -> Option<usize> {
        let widths = WIDTHS.into_iter().take_while(|&width| width <= MAX_DRAFT);
        let (width, _) = widths
            .zip(self.seconds)
            .take_while(|(_, seconds)| seconds.is_none_or(|it| it < LONGEST_MEASUREMENT))
            .find(|(_, seconds)| seconds.is_none())?;
        Some(width)
    }

    /// Records a forward pass over `n_rows` rows, all with logits.
    pub(crate) fn record(&mut self, n_rows: usize, duration: Duration) {
        let bucket = bucket_of(n_rows);
        let seconds = duration.as_secs_f64();
        self.seconds[bucket] = Some(match self.seconds[bucket] {
            None => seconds,
            // One pause of the machine counts as one slow step, not as a hundred.
            Some(mean) => mean + RECENCY * (seconds.min(4.0 * mean) - mean),
        });
        let narrow = self.seconds[bucket].unwrap_or(seconds);
        for (cost, width) in self.seconds.iter_mut().zip(WIDTHS).skip(bucket + 1) {
            if let Some(mean) = cost {
                *mean += FORGETTING * (extrapolate(narrow, WIDTHS[bucket], width) - *mean);
            }
        }
    }

    /// Expected cost of a step of `n_rows` rows, in seconds, or in steps of one row if nothing is measured.
    pub(crate) fn estimate(&self, n_rows: usize) -> f64 {
        let measured =
            |buckets: std::ops::Range<usize>| buckets.filter_map(|it| Some((WIDTHS[it], self.seconds[it]?)));
        let bucket = bucket_of(n_rows);
        if let Some(seconds) = self.seconds[bucket] {
            return seconds;
        }
        let below = measured(0..bucket).next_back();
        let above = measured(bucket..WIDTHS.len()).next();
        match (below, above) {
            (Some((from, low)), Some((to, high))) => {
                low + (high - low).max(0.0) * (n_rows - from) as f64 / (to - from) as f64
            }
            (Some((from, low)), None) => extrapolate(low, from, n_rows),
            (None, Some((_, high))) => high,
            (None, None) => extrapolate(1.0, 1, n_rows),
        }
    }
}

/// Cost of a step of `n_rows` rows if one of `from` rows, no more, costs `seconds` and nothing else is known.
fn extrapolate(seconds: f64, from: usize, n_rows: usize) -> f64 {
    let relative = |n_rows: usize| 1.0 + PRIOR_SLOPE * n_rows.saturating_sub(1) as f64;
    seconds * relative(n_rows.max(from)) / relative(from)
}

fn bucket_of(n_rows: usize) -> usize {
    WIDTHS
        .partition_point(|&width| width < n_rows)
        .min(WIDTHS.len() - 1)
}

/// What a step holds before the draft in question is added.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct StepLoad {
    /// Rows of all sequences, drafts already chosen included.
    pub(crate) n_rows: usize,
    /// Tokens that the step is expected to emit.
    pub(crate) n_tokens: f64,
}

impl StepLoad {
    /// The load with the draft tokens `ranking` more.
    pub(crate) fn with_draft(self, ranking: &[RankedNode]) -> Self {
        Self {
            n_rows: self.n_rows + ranking.len(),
            n_tokens: self.n_tokens + ranking.iter().map(|it| it.reach).sum::<f64>(),
        }
    }

    /// Expected tokens per second.
    pub(crate) fn speed(self, costs: &StepCosts) -> f64 {
        self.n_tokens / costs.estimate(self.n_rows)
    }
}

/// How many of `ranking`, likeliest first, give the most expected tokens per second (Leviathan et al. 2023, "Fast
/// Inference from Transformers via Speculative Decoding", §3.5, with measured costs in place of a ratio).
pub(crate) fn draft_length(load: StepLoad, ranking: &[RankedNode], costs: &StepCosts) -> usize {
    let mut best = (0, load.speed(costs));
    let mut drafted = load;
    for (idx, node) in ranking.iter().enumerate() {
        drafted = drafted.with_draft(std::slice::from_ref(node));
        let speed = drafted.speed(costs);
        if speed > best.1 {
            best = (idx + 1, speed);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE_SEQUENCE: StepLoad = StepLoad {
        n_rows: 1,
        n_tokens: 1.0,
    };

    /// Costs of steps of `n` rows, relative to one row, as measured.
    fn costs(table: &[(usize, f64)]) -> StepCosts {
        let mut costs = StepCosts::default();
        for &(n_rows, relative) in table {
            costs.record(n_rows, Duration::from_secs_f64(relative / 100.0));
        }
        costs
    }

    /// The policy's choice among `longest` tokens in a row, each right with probability `rate`.
    fn draft_length(load: StepLoad, rate: f64, longest: i32, costs: &StepCosts) -> usize {
        let nodes = (0..longest).map(|idx| RankedNode {
            idx: idx as usize,
            reach: rate.powi(idx + 1),
        });
        super::draft_length(load, &nodes.collect::<Vec<_>>(), costs)
    }

    fn chain(tokens: std::ops::Range<u32>, match_len: usize) -> Draft {
        let mut draft = Draft::default();
        tokens.for_each(|token| draft.push(token, Evidence::of_match(match_len)));
        draft
    }

    #[test]
    fn drafts_are_long_where_they_are_right_and_cheap() {
        let cheap = costs(&[(1, 1.0), (4, 1.02), (8, 1.26), (12, 1.25), (24, 1.84), (64, 5.0)]);
        assert_eq!(draft_length(ONE_SEQUENCE, 0.05, 32, &cheap), 1);
        assert!(draft_length(ONE_SEQUENCE, 0.95, 32, &cheap) >= 11);
        assert_eq!(draft_length(ONE_SEQUENCE, 0.95, 5, &cheap), 5);
    }

    #[test]
    fn a_network_that_costs_more_than_it_gives_is_tried_now_and_then() {
        let costs = costs(&[(1, 1.0), (4, 1.1)]);
        let mut balance = Balance::default();
        let mut uses = |n_accepted: usize, seconds: f64| {
            let is_used = balance.is_worth_using();
            if is_used {
                balance.note(10, 30, n_accepted, seconds, &costs);
            }
            is_used
        };
        // A step takes 10 ms, and 11 ms with a draft.
        assert!((0..9).all(|_| uses(20, 0.1)));
        // It reads a long prompt once: no reason yet. But always?
        assert!(uses(20, 0.3) && uses(20, 0.1));
        let n_used = (0..170).filter(|_| uses(20, 0.3)).count();
        assert!((10..20).contains(&n_used), "{n_used}");
        // It has become better at it.
        assert!((0..170).filter(|_| uses(25, 0.05)).count() > 100);
    }

    #[test]
    fn no_draft_where_it_loses() {
        let dear = costs(&[(1, 1.0), (2, 1.4), (4, 2.0), (8, 3.5), (16, 7.0), (32, 14.0)]);
        assert_eq!(draft_length(ONE_SEQUENCE, 0.3, 32, &dear), 0);
        assert!(draft_length(ONE_SEQUENCE, 0.95, 32, &dear) >= 1);
    }

    #[test]
    fn other_sequences_make_drafts_dearer() {
        let costs = costs(&[(1, 1.0), (8, 1.1), (12, 1.2), (16, 2.0), (32, 4.0)]);
        let alone = draft_length(ONE_SEQUENCE, 0.6, 32, &costs);
        let crowded = draft_length(
            StepLoad {
                n_rows: 12,
                n_tokens: 12.0,
            },
            0.6,
            32,
            &costs,
        );
        assert!(alone > crowded, "{alone} {crowded}");
    }

    #[test]
    fn costs_are_interpolated_and_extrapolated() {
        let costs = costs(&[(1, 1.0), (8, 2.0)]);
        assert!((costs.estimate(1) - 0.01).abs() < 1e-9);
        assert!((costs.estimate(4) - 0.01 * (1.0 + 3.0 / 7.0)).abs() < 1e-9);
        // Beyond what was measured, the cost of a row is that of the prior.
        let relative = |n_rows: f64| 1.0 + PRIOR_SLOPE * (n_rows - 1.0);
        assert!((costs.estimate(32) - 0.02 * relative(32.0) / relative(8.0)).abs() < 1e-9);
        assert!(costs.estimate(1000) > costs.estimate(256));
    }

    /// Before anything is measured, a draft has to be likely enough for what a row costs on a small model.
    #[test]
    fn drafts_are_modest_before_anything_is_measured() {
        let costs = StepCosts::default();
        assert_eq!(draft_length(ONE_SEQUENCE, 0.06, 32, &costs), 0);
        assert!((1..=2).contains(&draft_length(ONE_SEQUENCE, 0.3, 32, &costs)));
        assert!((12..=24).contains(&draft_length(ONE_SEQUENCE, 0.95, 32, &costs)));
    }

    #[test]
    fn a_slow_accident_is_forgotten() {
        let mut costs = costs(&[(1, 1.0), (16, 50.0)]);
        assert_eq!(draft_length(ONE_SEQUENCE, 0.9, 15, &costs), 0);
        for _ in 0..3000 {
            costs.record(1, Duration::from_millis(10));
        }
        assert!(draft_length(ONE_SEQUENCE, 0.9, 15, &costs) > 0);
    }

    #[test]
    fn widths_are_measured_once_and_only_while_steps_are_short() {
        let measured = |seconds_per_row: f64| {
            let mut costs = StepCosts::default();
            let widths = std::iter::from_fn(|| {
                let width = costs.unmeasured_width()?;
                costs.record(width, Duration::from_secs_f64(seconds_per_row * width as f64));
                Some(width)
            });
            widths.collect::<Vec<_>>()
        };
        assert_eq!(measured(0.001), WIDTHS[..13]);
        assert_eq!(measured(0.1), [1, 2, 3]);
        assert_eq!(measured(9.0), [1]);
    }

    #[test]
    fn acceptance_follows_what_happens() {
        let (weak, strong) = (Evidence::of_match(2), Evidence::of_match(20));
        let mut acceptance = Acceptance::default();
        for _ in 0..100 {
            acceptance.learn(&chain(0..4, 2), &[7]);
            acceptance.learn(&chain(0..8, 20), &[0, 1, 2, 3]);
        }
        assert!(acceptance.rate(weak) < 0.05);
        assert!(acceptance.rate(strong) > 0.95);
        assert!((acceptance.rate(Evidence::of_match(4)) - 0.45).abs() < 0.1);
        for _ in 0..50 {
            acceptance.learn(&chain(0..4, 2), &[0, 1, 2, 3, 4]);
        }
        assert!(acceptance.rate(weak) > 0.7);
    }

    #[test]
    fn a_network_is_asked_while_it_pays_and_now_and_then_after() {
        let costs = costs(&[(1, 1.0), (4, 1.1), (8, 1.3)]);
        let mut gain = Gain::default();
        assert!(gain.is_worth_asking(ONE_SEQUENCE, &costs, 0.005));
        assert!(!gain.is_worth_asking(ONE_SEQUENCE, &costs, 0.05));
        for _ in 0..40 {
            gain.note_outcome(0);
        }
        let asked = (0..200).filter(|_| gain.is_worth_asking(ONE_SEQUENCE, &costs, 0.005));
        assert_eq!(asked.count(), 4);
    }

    #[test]
    fn the_likeliest_nodes_come_first_and_parents_before_children() {
        let [low, high] = [0.1, 1.0].map(Evidence::of_probability);
        let mut tree = Draft::default();
        let unlikely = tree.push_after(None, 1, low);
        let likely = tree.push_after(None, 2, high);
        tree.push_after(Some(unlikely), 3, high);
        tree.push_after(Some(likely), 4, high);
        let mut ranking = Vec::new();
        Acceptance::default().rank(&tree, &mut ranking);
        assert_eq!(ranking.iter().map(|it| it.idx).collect::<Vec<_>>(), [1, 3, 0, 2]);
        let acceptance = &mut Acceptance::default();
        acceptance.learn(&tree, &[2, 9]);
        assert!(acceptance.rate(low) < low.prior_rate());
    }
}
