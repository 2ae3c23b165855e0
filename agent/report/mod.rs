//! State as people and machines read it: what `status.json` and `history.json` hold, and the text made of them.
//! It reads snapshots and decides nothing; the files need no agent to be read.

mod bad;
mod snapshot;

mod liveness;

mod counters;

mod status;

mod history;

mod judge;

mod health;

mod reboot;

mod hint;

mod old;

mod known;

mod explain;

mod policy;

mod pace;

mod publish;

pub mod metrics;

mod style;

mod headline;

mod summary;

mod text;

mod table;

mod timeline;

mod sentence;

mod log;

pub use counters::{Counters, Durations, LastDeployment, Tally, phase};
pub use explain::{Explanation, Verdict, explain};
pub use headline::oneline;
pub use hint::HintStatus;
pub use history::{Entry, Fate, History};
pub use known::{RevisionError, may_be_revision, resolve};
pub use liveness::{Agent, Life, life};
pub use log::{MESSAGE_IDS, log, log_alarms, log_failure, log_news, message_id};
pub use policy::policy;
pub use publish::{
    PublishError, Publisher, ReadError, SCHEMA, history_path, read_history, read_status, run_dir, spoken,
    status_path,
};
pub use sentence::{News, Weight, news, sentence};
pub use snapshot::{Doing, Snapshot};
pub use status::{
    Act, AlarmStatus, Bad, BadKind, Commit, DeploymentStatus, Headline, Owed, Pending, RebootStatus,
    RemoteStatus, RetryStatus, StageWord, StandingWord, Status, System, TestProgressWord, TestStatus,
    TroubleStatus, TrustStatus,
};
pub use style::Style;
pub use summary::summary;
pub use table::history as history_text;
pub use text::page;
pub use timeline::{Chapter, Line};
