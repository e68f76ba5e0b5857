//! basic.publish: checks, routes, and puts the message into the batch.

use std::sync::Arc;

use leveret_protocol::encode::{self, Return};
use leveret_protocol::properties::{PropertiesEdit, Property};
use leveret_protocol::{FieldTable, FieldValue, PropertiesRef, ReplyCode};
use leveret_queue::NewMessage;
use leveret_topology::QueueInfo;

use super::{Channel, reply_to};
use crate::connection::core::{Core, Fault};
use crate::connection::routes::Route;
use crate::node::Attributes;

/// A complete message as it lies in the receive buffer.
#[derive(Clone, Copy, Debug)]
pub struct Publish<'a> {
    /// The exchange's name.
    pub exchange: &'a [u8],
    /// The routing key.
    pub routing_key: &'a [u8],
    /// Return it if no queue takes it.
    pub mandatory: bool,
    /// RabbitMQ refuses it.
    pub immediate: bool,
    /// Property flags and list.
    pub properties: &'a [u8],
    /// The body.
    pub body: &'a [u8],
}

/// Properties that need more than a look at their flags.
const SPECIAL: [Property; 4] = [
    Property::Headers,
    Property::ReplyTo,
    Property::Expiration,
    Property::UserId,
];

/// What special properties mean for a message.
#[derive(Debug, Default)]
struct Special {
    expiration_ms: Option<u64>,
    /// The properties as they are passed on, if they are changed.
    edited: Option<Vec<u8>>,
    /// Routing keys of the headers CC and BCC.
    extra_keys: Vec<Vec<u8>>,
}

/// Largest `expiration` in milliseconds: ten years, as in RabbitMQ.
const EXPIRATION_MS_MAX: u64 = 315_360_000_000;

impl Channel {
    /// Takes a message.
    ///
    /// # Errors
    /// A channel or connection exception.
    #[inline]
    pub fn publish(&mut self, core: &mut Core, publish: &Publish<'_>) -> Result<(), Fault> {
        core.published = true;
        if publish.immediate {
            return Err(Fault::new(ReplyCode::NotImplemented, "immediate=true"));
        }
        let properties = PropertiesRef::new(publish.properties);
        let flags = properties.flags();
        let mut message = NewMessage {
            exchange: publish.exchange,
            routing_key: publish.routing_key,
            properties: publish.properties,
            body: &[publish.body],
            persistent: false,
            expiration_ms: None,
            priority: 0,
            time_ms: core.now_ms,
        };
        if flags != 0 {
            message.persistent = properties.is_persistent();
            message.priority = properties.priority().unwrap_or(0);
            if SPECIAL.iter().any(|p| properties.has(*p)) {
                return self.publish_special(core, publish, message);
            }
        }
        if let Some(token) = reply_to::token(publish.exchange, publish.routing_key) {
            return self.publish_reply(core, token, publish, &message);
        }
        let route = self.route(core, publish, &[], &properties)?;
        self.routed(core, &route, &message, publish.mandatory)
    }

    /// A message with a property that the broker looks into.
    fn publish_special<'a>(
        &mut self,
        core: &mut Core,
        publish: &Publish<'a>,
        message: NewMessage<'a>,
    ) -> Result<(), Fault> {
        let properties = PropertiesRef::new(publish.properties);
        let special = match self.special(core, &properties) {
            Ok(special) => special,
            Err(fault) => {
                // What is wrong with the exchange is told before what is wrong with the message.
                self.route(core, publish, &[], &properties)?;
                return Err(fault);
            }
        };
        let mut message = NewMessage { ..message };
        message.expiration_ms = special.expiration_ms;
        if let Some(edited) = &special.edited {
            message.properties = edited;
        }
        if let Some(token) = reply_to::token(publish.exchange, publish.routing_key) {
            return self.publish_reply(core, token, publish, &message);
        }
        let keys: Vec<&[u8]> = special.extra_keys.iter().map(Vec::as_slice).collect();
        let route = self.route(core, publish, &keys, &properties)?;
        self.routed(core, &route, &message, publish.mandatory)
    }

    /// Looks into the properties that concern the broker, in RabbitMQ's order.
    fn special(&self, core: &Core, properties: &PropertiesRef<'_>) -> Result<Special, Fault> {
        let mut special = Special::default();
        if properties.reply_to() == Some(reply_to::PSEUDO_QUEUE) {
            let name = self.reply_address()?;
            let edit = PropertiesEdit::new(properties.as_bytes());
            special.edited = Some(edit.set(Property::ReplyTo, name).to_bytes());
        }
        if let Some(user_id) = properties.user_id() {
            Self::check_user_id(core, user_id)?;
        }
        if let Some(expiration) = properties.expiration() {
            special.expiration_ms = Some(Self::expiration(expiration)?);
        }
        let Some(headers) = properties.headers() else {
            return Ok(special);
        };
        if headers.get(b"CC").is_none() && headers.get(b"BCC").is_none() {
            return Ok(special);
        }
        let mut table = headers
            .decode()
            .map_err(|e| Fault::hard(ReplyCode::SyntaxError, e.to_string()))?;
        sender_selected(&table, "CC", &mut special.extra_keys)?;
        sender_selected(&table, "BCC", &mut special.extra_keys)?;
        if table.remove("BCC").is_some() {
            let raw = special
                .edited
                .as_deref()
                .unwrap_or_else(|| properties.as_bytes());
            special.edited = Some(PropertiesEdit::new(raw).headers(&table).to_bytes());
        }
        Ok(special)
    }

    fn check_user_id(core: &Core, user_id: &[u8]) -> Result<(), Fault> {
        let session = &core.session;
        if user_id == session.user.as_bytes() || session.impersonator {
            return Ok(());
        }
        Err(Fault::precondition(format!(
            "user_id property set to '{}' but authenticated user was '{}'",
            String::from_utf8_lossy(user_id),
            session.user
        )))
    }

    /// The `expiration` property: milliseconds in decimal digits.
    fn expiration(text: &[u8]) -> Result<u64, Fault> {
        let invalid = |why: String| {
            Fault::precondition(format!(
                "invalid expiration '{}': {why}",
                String::from_utf8_lossy(text)
            ))
        };
        let (negative, digits) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            all => (false, all),
        };
        let count = digits.iter().take_while(|b| b.is_ascii_digit()).count();
        if count == 0 {
            return Err(invalid("no_integer".into()));
        }
        if let Some(rest) = digits.get(count..).filter(|r| !r.is_empty()) {
            let rest = String::from_utf8_lossy(rest).into_owned();
            return Err(invalid(format!("{{leftover_string,{rest:?}}}")));
        }
        let number = std::str::from_utf8(digits)
            .ok()
            .and_then(|d| d.parse::<u64>().ok());
        match number {
            Some(n) if negative && n > 0 => Err(invalid(format!("{{value_negative,-{n}}}"))),
            Some(n) if n <= EXPIRATION_MS_MAX => Ok(n),
            _ => {
                let digits = String::from_utf8_lossy(digits);
                Err(invalid(format!("{{value_too_large,{digits}}}")))
            }
        }
    }

    /// The queues that the message goes to, with the permission to publish there checked.
    #[inline]
    pub(super) fn route(
        &mut self,
        core: &mut Core,
        publish: &Publish<'_>,
        extra_keys: &[&[u8]],
        properties: &PropertiesRef<'_>,
    ) -> Result<Route, Fault> {
        let version = core.node.version();
        if extra_keys.is_empty()
            && let Some(route) = core
                .routes
                .get(version, publish.exchange, publish.routing_key)
        {
            return Ok(route);
        }
        let attributes = Attributes::new(properties);
        let (route, cacheable) = core.node.route(
            &core.session,
            publish.exchange,
            publish.routing_key,
            extra_keys,
            &attributes,
        )?;
        if cacheable && extra_keys.is_empty() {
            core.routes.put(
                version,
                publish.exchange,
                publish.routing_key,
                route.clone(),
            );
        }
        Ok(route)
    }

    /// Enqueues a routed message, or returns it.
    #[inline]
    fn routed(
        &mut self,
        core: &mut Core,
        queues: &[Arc<QueueInfo>],
        message: &NewMessage<'_>,
        mandatory: bool,
    ) -> Result<(), Fault> {
        if let Some(tx) = &mut self.tx {
            let mirrored = core.node.mirror().is_some();
            return tx.publish(queues, message, mandatory, mirrored);
        }
        let mark = self.confirm.as_mut().map(|tag| {
            *tag += 1;
            (self.number, *tag)
        });
        core.counts.received(mark.is_some());
        if let Some((channel, tag)) = mark {
            core.batch.confirm(channel, tag);
        }
        if queues.is_empty() {
            core.counts.unroutable(mandatory);
            if mandatory {
                self.put_return(core, message);
            }
            return Ok(());
        }
        core.enqueue(queues, message, mark)
    }

    /// basic.return with 312 NO_ROUTE. It leaves before the confirm, which comes at the end of the batch.
    pub(super) fn put_return(&self, core: &mut Core, message: &NewMessage<'_>) {
        let body: std::borrow::Cow<'_, [u8]> = match message.body {
            [one] => (*one).into(),
            parts => parts.concat().into(),
        };
        encode::put_content(
            &mut core.out,
            self.number,
            &Return {
                reply_code: ReplyCode::NoRoute.code(),
                reply_text: ReplyCode::NoRoute.name().as_bytes(),
                exchange: message.exchange,
                routing_key: message.routing_key,
            },
            message.properties,
            &body,
            core.frame_max,
        );
    }
}

/// Routing keys of the headers CC and BCC (RabbitMQ extension, sender-selected distribution).
fn sender_selected(headers: &FieldTable, name: &str, keys: &mut Vec<Vec<u8>>) -> Result<(), Fault> {
    let Some(value) = headers.get(name) else {
        return Ok(());
    };
    let wrong = |value: &FieldValue| {
        Fault::precondition(format!(
            "invalid message: {{unacceptable_type_in_header,\"{name}\",{}}}",
            value.type_name()
        ))
    };
    let Some(items) = value.as_array() else {
        return Err(wrong(value));
    };
    for item in items {
        // RabbitMQ passes over entries that are no strings.
        keys.extend(item.as_longstr().map(<[u8]>::to_vec));
    }
    Ok(())
}
