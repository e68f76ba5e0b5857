//! Deleting and purging queues.

use leveret_topology::{Command, DeleteQueue, Name};

use super::{Handled, Result, arg, propose};
use crate::ctl::protocol::{Failure, Output, Request, exit};
use crate::node::Node;

pub fn delete(node: &Node, request: &Request) -> Result {
    let (vhost, name) = (request.vhost(), arg(request, 0)?);
    let refuse = |text: &str| Err(Failure::new(exit::USAGE, text));
    let Some(queue) = node.topology().queue(vhost, name).cloned() else {
        return refuse("Queue not found");
    };
    let Some((ready, consumers)) = node.counts_and_wait(&queue) else {
        return Err(no_answer());
    };
    if request.flag("if-unused") && consumers > 0 {
        return refuse("Queue is in use");
    }
    if request.flag("if-empty") && ready > 0 {
        return refuse("Queue is not empty");
    }
    let delete = DeleteQueue {
        vhost: Name::from(vhost),
        name: Name::from(name),
        id: Some(queue.id),
    };
    let done = propose(node, Command::DeleteQueue(delete))?;
    let text = format!("Queue was successfully deleted with {ready} ready messages");
    Ok(Handled {
        output: Output::Message(text),
        ..done
    })
}

pub fn purge(node: &Node, request: &Request) -> Result {
    let (vhost, name) = (request.vhost(), arg(request, 0)?);
    let Some(queue) = node.topology().queue(vhost, name).cloned() else {
        return Err(Failure::new(exit::UNAVAILABLE, "not_found"));
    };
    match node.purge_and_wait(&queue) {
        Some(_) => Ok(Output::Done.into()),
        None => Err(no_answer()),
    }
}

/// The queue has no leader that answers.
fn no_answer() -> Failure {
    Failure::new(exit::TEMPORARY, "the queue's leader does not answer")
}
