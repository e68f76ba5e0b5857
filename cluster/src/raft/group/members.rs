//! Changes of a group's members, by its leader.

use std::collections::BTreeSet;

use openraft::ChangeMembers;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft::rt::{AsyncRuntime, WatchReceiver};

use crate::raft::reconcile::{self, Present, Step, Wanted};
use crate::raft::state_machine::Machine;
use crate::raft::types::{LogId, MemberId, Membership, Types};

use super::{GroupError, RaftGroup, stopped};

impl<R: AsyncRuntime, M: Machine> RaftGroup<R, M> {
    /// Takes in a member that does not vote; returns when that is committed, not when it has the log.
    ///
    /// # Errors
    /// This member does not lead, a change is under way, or the group has stopped.
    pub async fn add_learner(&self, member: MemberId) -> Result<LogId, GroupError> {
        let _one = openraft::rt::Mutex::lock(&self.changing).await;
        done(self.raft.add_learner(member, (), false).await)
    }

    /// Lets a learner vote.
    ///
    /// # Errors
    /// As [`RaftGroup::add_learner`].
    pub async fn promote(&self, member: MemberId) -> Result<LogId, GroupError> {
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([member])))
            .await
    }

    /// Lets a learner vote in the place of a voter, which goes.
    ///
    /// # Errors
    /// As [`RaftGroup::add_learner`].
    pub async fn replace(&self, old: MemberId, new: MemberId) -> Result<LogId, GroupError> {
        let mut voters: BTreeSet<MemberId> = self.membership().voter_ids().collect();
        voters.remove(&old);
        voters.insert(new);
        self.change(ChangeMembers::ReplaceAllVoters(voters)).await
    }

    /// Takes a member out, whether it votes or not.
    ///
    /// # Errors
    /// As [`RaftGroup::add_learner`].
    pub async fn remove(&self, member: MemberId) -> Result<LogId, GroupError> {
        let members = BTreeSet::from([member]);
        let votes = self.membership().voter_ids().any(|id| id == member);
        self.change(match votes {
            true => ChangeMembers::RemoveVoters(members),
            false => ChangeMembers::RemoveNodes(members),
        })
        .await
    }

    /// Ends a change of members whose leader did not live to end it.
    ///
    /// # Errors
    /// As [`RaftGroup::add_learner`].
    pub async fn flatten(&self) -> Result<LogId, GroupError> {
        self.change(ChangeMembers::AddVoterIds(BTreeSet::new()))
            .await
    }

    /// The members that are committed, if there is no later change that is not.
    pub fn committed_membership(&self) -> Option<Membership> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let committed = &metrics.committed_membership_config;
        (committed.log_id() == metrics.membership_config.log_id())
            .then(|| committed.membership().clone())
    }

    /// What a leader does next for the group to have the wanted members.
    pub fn next_step(&self, wanted: &Wanted) -> Step {
        let membership = self.membership();
        let members = membership.nodes().map(|(member, ())| *member);
        let lag = members.filter_map(|member| Some((member, self.lag(member)?)));
        reconcile::next(
            &Present {
                me: self.config.member,
                membership: &membership,
                committed: self.committed_membership().is_some(),
                lag: &lag.collect(),
            },
            wanted,
        )
    }

    /// Does such a step; it is committed when this returns.
    ///
    /// # Errors
    /// As [`RaftGroup::add_learner`].
    pub async fn take_step(&self, step: Step) -> Result<(), GroupError> {
        match step {
            Step::Done | Step::Wait => return Ok(()),
            Step::HandOver(to) => return self.transfer_leader(to).await,
            Step::Flatten => self.flatten().await,
            Step::Add(member) => self.add_learner(member).await,
            Step::Promote(member) => self.promote(member).await,
            Step::Replace(old, new) => self.replace(old, new).await,
            Step::Remove(member) => self.remove(member).await,
        }
        .map(drop)
    }

    async fn change(&self, change: ChangeMembers<MemberId, ()>) -> Result<LogId, GroupError> {
        let _one = openraft::rt::Mutex::lock(&self.changing).await;
        done(self.raft.change_membership(change, false).await)
    }
}

type WriteError<R> = RaftError<Types<R>, ClientWriteError<Types<R>>>;

fn done<R: AsyncRuntime>(
    result: Result<ClientWriteResponse<Types<R>>, WriteError<R>>,
) -> Result<LogId, GroupError> {
    match result {
        Ok(response) => Ok(response.log_id),
        Err(RaftError::Fatal(fatal)) => Err(stopped(fatal)),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
            let leader = to.leader_id;
            Err(GroupError::NotLeader { leader })
        }
        Err(RaftError::APIError(refused)) => Err(GroupError::Refused(refused.to_string())),
    }
}
