//! `rpc`: calls and replies.

use super::run::{Common, Report, table};
use crate::error::Result;
use crate::flags::Flags;
use crate::rpc::{RpcPlan, run as run_rpc};

/// Takes its flags and runs; false if a reply was lost, duplicated or misrouted.
///
/// # Errors
/// See [`crate::error::Error`].
pub fn rpc(mut flags: Flags) -> Result<bool> {
    let plan = RpcPlan::take(&mut flags)?;
    let common = Common::take(&mut flags, &plan.uris)?;
    flags.finish()?;
    let outcome = run_rpc(&plan, &common.broker, !common.quiet)?;
    let clean = outcome.integrity.as_ref().is_none_or(|v| v.is_clean());
    print!("{}", table(&outcome));
    let plan = serde_json::to_value(&plan).unwrap_or_default();
    common.write(&Report {
        scenario: "rpc".into(),
        plan,
        outcome,
    })?;
    Ok(clean)
}
