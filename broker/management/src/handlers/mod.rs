//! What the routes do. A file for each kind of object.

pub mod access;
pub mod bindings;
pub mod cluster;
pub mod connections;
pub mod definitions;
pub mod exchanges;
pub mod health;
pub mod limits;
pub mod messages;
pub mod parameters;
pub mod policies;
pub mod queues;
pub mod users;
pub mod vhosts;

use leveret_protocol::ReplyCode;

use crate::amqp::Closed;
use crate::reply::Failure;

/// What a method of a declare, delete, bind or purge is refused with, as RabbitMQ's API has it.
pub(crate) fn refused(closed: &Closed) -> Failure {
    let why = closed.explanation();
    if *closed == Closed::Lost {
        return Failure::new(503, "service_unavailable", why);
    }
    if closed.is(ReplyCode::NotFound) {
        return Failure::not_found(why);
    }
    if closed.is(ReplyCode::AccessRefused) || closed.is(ReplyCode::NotAllowed) {
        return Failure::not_authorised("Access refused.");
    }
    Failure::bad_request(why)
}

/// What publishing and fetching is refused with: with the code and the whole text.
pub(crate) fn refused_in_full(closed: Closed) -> Failure {
    match closed {
        Closed::Lost => Failure::new(503, "service_unavailable", closed.explanation()),
        Closed::ByServer(code, text) if code == ReplyCode::AccessRefused.code() => {
            Failure::not_authorised(text)
        }
        Closed::ByServer(code, text) => Failure::bad_request(format!("{code} {text}")),
    }
}
