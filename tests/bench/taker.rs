//! A trusted store that takes revisions in as the agent does, from a pack that comes through a pipe or lies in a file.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::common::pushes::Key;
use pullagent::model::Oid;
use pullagent::repo::Limits;
use pullagent::repo::import::{Against, ImportRequest, Verdict, import};
use pullagent::repo::store::Store;
use pullagent::trust::{AnchorFacts, Policy, Role, Rules, Signer};

/// Long after every commit.
const NOW: u64 = 2_000_000_000;

pub struct Taker {
    state: PathBuf,
    main: AnchorFacts,
    policy: Policy,
}

impl Taker {
    /// A store of a host that was introduced to `first` and trusts `key`.
    pub fn new(state: &Path, first: &Oid, key: &Key) -> Taker {
        pullagent::host::command::use_binary(env!("CARGO_BIN_EXE_pullagent"));
        let signer = Signer {
            name: "alice".into(),
            keys: vec![key.public().into()],
            roles: [Role::Deployer].into(),
            test_hosts: None,
        };
        let policy = Policy::new(vec![signer], Vec::new(), Rules::default()).unwrap();
        Taker { state: state.to_owned(), main: AnchorFacts::introduction(first.clone()), policy }
    }

    pub fn store(&self) -> Store {
        Store::open_or_create(&self.state, &self.main.revision).unwrap()
    }

    /// Takes `tip` in, which must be acceptable.
    pub async fn take(&mut self, tip: &Oid, pack: OwnedFd) {
        let request = ImportRequest {
            tip: tip.clone(),
            against: Against::Main { anchor: self.main.clone() },
            policy: self.policy.clone(),
            host: "web1".into(),
            branch: "main".into(),
            now: NOW,
            submodules: Default::default(),
            limits: Limits::default(),
        };
        match import(&self.store(), &request, Some(pack)).await {
            Ok(Verdict::Accepted(accepted)) => self.main = accepted.anchor,
            other => panic!("{tip} was not accepted: {other:?}"),
        }
    }
}
