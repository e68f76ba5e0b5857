//! The table of methods, and what is made of it.

use super::{MethodError, Sender, method_id, split_method};
use crate::field_table::FieldTable;
use crate::short_str::ShortStr;
use crate::wire::{ArgReader, ArgWriter};

/// The Rust type of an argument.
macro_rules! argument {
    (octet) => { u8 };
    (short) => { u16 };
    (long) => { u32 };
    (longlong) => { u64 };
    (bit) => { bool };
    (shortstr) => { ShortStr };
    (shortbytes) => { ShortStr };
    (longstr) => { Vec<u8> };
    (table) => { FieldTable };
}

macro_rules! has_content {
    () => {
        false
    };
    (content) => {
        true
    };
}

macro_rules! methods {
    ($(
        $(#[$meta:meta])*
        $name:ident = ($class:literal, $method:literal, $text:literal, $sender:ident $(, $content:ident)?) {
            $($field:ident: $kind:ident),* $(,)?
        }
    )*) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, PartialEq, Eq, Default)]
            pub struct $name {
                $(
                    #[doc = concat!("AMQP type ", stringify!($kind), ".")]
                    pub $field: argument!($kind),
                )*
            }

            impl $name {
                /// Class id.
                pub const CLASS_ID: u16 = $class;
                /// Method id within the class.
                pub const METHOD_ID: u16 = $method;
                /// Both ids in one number, see [`method_id`].
                pub const ID: u32 = method_id($class, $method);
                /// Name as the specification has it.
                pub const NAME: &'static str = $text;

                /// Decodes the arguments: the payload of the frame without the
                /// four octets of the ids.
                ///
                /// # Errors
                /// When they are not exactly the arguments of this method.
                pub fn decode(args: &[u8]) -> Result<Self, MethodError> {
                    #[allow(unused_mut, reason = "methods without arguments")]
                    let mut read = ArgReader::new(args);
                    let decoded = (|| {
                        $(let $field = read.$kind()?;)*
                        read.finish()?;
                        Ok($name { $($field),* })
                    })();
                    decoded.map_err(|error| MethodError::new(Self::ID, args, error))
                }

                /// Appends ids and arguments: the whole payload of the frame.
                pub fn encode_payload(&self, out: &mut Vec<u8>) {
                    out.extend_from_slice(&Self::ID.to_be_bytes());
                    #[allow(unused_mut, unused_variables, reason = "methods without arguments")]
                    let mut write = ArgWriter::new(out);
                    $(write.$kind(&self.$field);)*
                }
            }

            impl From<$name> for Method {
                fn from(method: $name) -> Method {
                    Method::$name(method)
                }
            }
        )*

        /// Any method.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Method {
            $(#[doc = $text] $name($name),)*
        }

        impl Method {
            /// The ids of all methods, in the order of the table.
            pub const IDS: &'static [(u16, u16)] = &[$(($class, $method),)*];

            /// Decodes the payload of a method frame.
            ///
            /// # Errors
            /// When the method is unknown or its arguments are malformed.
            pub fn decode(payload: &[u8]) -> Result<Method, MethodError> {
                let (id, args) = split_method(payload)?;
                match id {
                    $($name::ID => $name::decode(args).map(Method::$name),)*
                    _ => Err(MethodError::unknown(id)),
                }
            }

            /// Appends ids and arguments: the whole payload of the frame.
            pub fn encode_payload(&self, out: &mut Vec<u8>) {
                match self {
                    $(Method::$name(method) => method.encode_payload(out),)*
                }
            }

            /// Class id and method id.
            pub const fn id(&self) -> (u16, u16) {
                match self {
                    $(Method::$name(_) => ($class, $method),)*
                }
            }

            /// Name as the specification has it, such as `basic.publish`.
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Method::$name(_) => $text,)*
                }
            }

            /// Who sends the method.
            pub const fn sender(&self) -> Sender {
                match self {
                    $(Method::$name(_) => Sender::$sender,)*
                }
            }

            /// Whether a content header and a body follow the method.
            pub const fn has_content(&self) -> bool {
                match self {
                    $(Method::$name(_) => has_content!($($content)?),)*
                }
            }

            /// The method with these ids and with empty arguments.
            pub fn empty(class: u16, method: u16) -> Option<Method> {
                match (class, method) {
                    $(($class, $method) => Some(Method::$name($name::default())),)*
                    _ => None,
                }
            }
        }

        /// Names and AMQP types of the arguments of the method with these ids;
        /// `shortbytes` is a short string that need not be UTF-8.
        pub const fn method_arguments(
            class: u16,
            method: u16,
        ) -> Option<&'static [(&'static str, &'static str)]> {
            match (class, method) {
                $(($class, $method) => Some(&[$((stringify!($field), stringify!($kind)),)*]),)*
                _ => None,
            }
        }

        /// Name of the method with these ids.
        pub const fn method_name(class: u16, method: u16) -> Option<&'static str> {
            match (class, method) {
                $(($class, $method) => Some($text),)*
                _ => None,
            }
        }
    };
}

impl Method {
    /// Whether a server accepts the method from a client.
    pub const fn is_client_sent(&self) -> bool {
        self.sender().is_client()
    }
}

methods! {
    // Class connection.
    /// The server opens the handshake.
    ConnectionStart = (10, 10, "connection.start", Server) {
        version_major: octet, version_minor: octet, server_properties: table, mechanisms: longstr,
        locales: longstr,
    }
    /// The client chooses a SASL mechanism and gives its first response.
    ConnectionStartOk = (10, 11, "connection.start-ok", Client) {
        client_properties: table, mechanism: shortstr, response: longstr, locale: shortstr,
    }
    /// A further SASL challenge.
    ConnectionSecure = (10, 20, "connection.secure", Server) { challenge: longstr }
    /// The response to a SASL challenge.
    ConnectionSecureOk = (10, 21, "connection.secure-ok", Client) { response: longstr }
    /// The server proposes limits; 0 means none. `frame_max` is in octets, `heartbeat` in
    /// seconds.
    ConnectionTune = (10, 30, "connection.tune", Server) {
        channel_max: short, frame_max: long, heartbeat: short,
    }
    /// The client settles the limits; 0 means none. `frame_max` is in octets, `heartbeat` in
    /// seconds.
    ConnectionTuneOk = (10, 31, "connection.tune-ok", Client) {
        channel_max: short, frame_max: long, heartbeat: short,
    }
    /// The client chooses a virtual host. The other two arguments are reserved.
    ConnectionOpen = (10, 40, "connection.open", Client) {
        virtual_host: shortstr, capabilities: shortstr, insist: bit,
    }
    /// The connection is ready. The argument is reserved.
    ConnectionOpenOk = (10, 41, "connection.open-ok", Server) { known_hosts: shortstr }
    /// Closes the connection. The ids are those of the method that failed, or zeros.
    ConnectionClose = (10, 50, "connection.close", Both) {
        reply_code: short, reply_text: shortstr, class_id: short, method_id: short,
    }
    /// Confirms connection.close; the last method of a connection.
    ConnectionCloseOk = (10, 51, "connection.close-ok", Both) {}
    /// RabbitMQ extension: the broker reads no more from a publisher.
    ConnectionBlocked = (10, 60, "connection.blocked", Server) { reason: shortstr }
    /// RabbitMQ extension: the broker reads again.
    ConnectionUnblocked = (10, 61, "connection.unblocked", Server) {}
    /// RabbitMQ extension: a new password or token for the connection.
    ConnectionUpdateSecret = (10, 70, "connection.update-secret", Client) {
        new_secret: longstr, reason: shortstr,
    }
    /// RabbitMQ extension: confirms connection.update-secret.
    ConnectionUpdateSecretOk = (10, 71, "connection.update-secret-ok", Server) {}

    // Class channel.
    /// Opens a channel. The argument is reserved.
    ChannelOpen = (20, 10, "channel.open", Client) { out_of_band: shortstr }
    /// The channel is open. The argument is reserved.
    ChannelOpenOk = (20, 11, "channel.open-ok", Server) { channel_id: longstr }
    /// Asks the peer to pause or resume the flow of contents.
    ChannelFlow = (20, 20, "channel.flow", Both) { active: bit }
    /// Confirms channel.flow.
    ChannelFlowOk = (20, 21, "channel.flow-ok", Both) { active: bit }
    /// Closes a channel. The ids are those of the method that failed, or zeros.
    ChannelClose = (20, 40, "channel.close", Both) {
        reply_code: short, reply_text: shortstr, class_id: short, method_id: short,
    }
    /// Confirms channel.close.
    ChannelCloseOk = (20, 41, "channel.close-ok", Both) {}

    // Class access.
    /// AMQP 0-9 access ticket, which RabbitMQ still grants to anyone.
    AccessRequest = (30, 10, "access.request", Client) {
        realm: shortstr, exclusive: bit, passive: bit, active: bit, write: bit, read: bit,
    }
    /// The ticket.
    AccessRequestOk = (30, 11, "access.request-ok", Server) { ticket: short }

    // Class exchange.
    /// Creates an exchange, or asks whether it exists.
    ExchangeDeclare = (40, 10, "exchange.declare", Client) {
        ticket: short, exchange: shortstr, kind: shortstr, passive: bit, durable: bit,
        auto_delete: bit, internal: bit, no_wait: bit, arguments: table,
    }
    /// Confirms exchange.declare.
    ExchangeDeclareOk = (40, 11, "exchange.declare-ok", Server) {}
    /// Deletes an exchange.
    ExchangeDelete = (40, 20, "exchange.delete", Client) {
        ticket: short, exchange: shortstr, if_unused: bit, no_wait: bit,
    }
    /// Confirms exchange.delete.
    ExchangeDeleteOk = (40, 21, "exchange.delete-ok", Server) {}
    /// RabbitMQ extension: binds an exchange to an exchange.
    ExchangeBind = (40, 30, "exchange.bind", Client) {
        ticket: short, destination: shortstr, source: shortstr, routing_key: shortstr, no_wait: bit,
        arguments: table,
    }
    /// Confirms exchange.bind.
    ExchangeBindOk = (40, 31, "exchange.bind-ok", Server) {}
    /// RabbitMQ extension: removes a binding between exchanges.
    ExchangeUnbind = (40, 40, "exchange.unbind", Client) {
        ticket: short, destination: shortstr, source: shortstr, routing_key: shortstr, no_wait: bit,
        arguments: table,
    }
    /// Confirms exchange.unbind. Its number is 51, not 41.
    ExchangeUnbindOk = (40, 51, "exchange.unbind-ok", Server) {}

    // Class queue.
    /// Creates a queue, or asks whether it exists.
    QueueDeclare = (50, 10, "queue.declare", Client) {
        ticket: short, queue: shortstr, passive: bit, durable: bit, exclusive: bit,
        auto_delete: bit, no_wait: bit, arguments: table,
    }
    /// The name of the queue, its ready messages and its consumers.
    QueueDeclareOk = (50, 11, "queue.declare-ok", Server) {
        queue: shortstr, message_count: long, consumer_count: long,
    }
    /// Binds a queue to an exchange.
    QueueBind = (50, 20, "queue.bind", Client) {
        ticket: short, queue: shortstr, exchange: shortstr, routing_key: shortstr, no_wait: bit,
        arguments: table,
    }
    /// Confirms queue.bind.
    QueueBindOk = (50, 21, "queue.bind-ok", Server) {}
    /// Drops the ready messages of a queue.
    QueuePurge = (50, 30, "queue.purge", Client) { ticket: short, queue: shortstr, no_wait: bit }
    /// How many messages were dropped.
    QueuePurgeOk = (50, 31, "queue.purge-ok", Server) { message_count: long }
    /// Deletes a queue.
    QueueDelete = (50, 40, "queue.delete", Client) {
        ticket: short, queue: shortstr, if_unused: bit, if_empty: bit, no_wait: bit,
    }
    /// How many messages the queue had.
    QueueDeleteOk = (50, 41, "queue.delete-ok", Server) { message_count: long }
    /// Removes a binding of a queue.
    QueueUnbind = (50, 50, "queue.unbind", Client) {
        ticket: short, queue: shortstr, exchange: shortstr, routing_key: shortstr, arguments: table,
    }
    /// Confirms queue.unbind.
    QueueUnbindOk = (50, 51, "queue.unbind-ok", Server) {}

    // Class basic.
    /// Limits the unacknowledged deliveries. RabbitMQ gives `global` a meaning of its own.
    BasicQos = (60, 10, "basic.qos", Client) {
        prefetch_size: long, prefetch_count: short, global: bit,
    }
    /// Confirms basic.qos.
    BasicQosOk = (60, 11, "basic.qos-ok", Server) {}
    /// Starts a consumer.
    BasicConsume = (60, 20, "basic.consume", Client) {
        ticket: short, queue: shortstr, consumer_tag: shortstr, no_local: bit, no_ack: bit,
        exclusive: bit, no_wait: bit, arguments: table,
    }
    /// Confirms basic.consume.
    BasicConsumeOk = (60, 21, "basic.consume-ok", Server) { consumer_tag: shortstr }
    /// Ends a consumer; from the server, RabbitMQ's consumer_cancel_notify.
    BasicCancel = (60, 30, "basic.cancel", Both) { consumer_tag: shortstr, no_wait: bit }
    /// Confirms basic.cancel.
    BasicCancelOk = (60, 31, "basic.cancel-ok", Both) { consumer_tag: shortstr }
    /// Publishes the message that follows.
    BasicPublish = (60, 40, "basic.publish", Client, content) {
        ticket: short, exchange: shortbytes, routing_key: shortbytes, mandatory: bit,
        immediate: bit,
    }
    /// Gives back a message that could not be routed.
    BasicReturn = (60, 50, "basic.return", Server, content) {
        reply_code: short, reply_text: shortbytes, exchange: shortbytes, routing_key: shortbytes,
    }
    /// Delivers a message to a consumer.
    BasicDeliver = (60, 60, "basic.deliver", Server, content) {
        consumer_tag: shortbytes, delivery_tag: longlong, redelivered: bit, exchange: shortbytes,
        routing_key: shortbytes,
    }
    /// Fetches one message.
    BasicGet = (60, 70, "basic.get", Client) { ticket: short, queue: shortstr, no_ack: bit }
    /// Delivers the message that was fetched.
    BasicGetOk = (60, 71, "basic.get-ok", Server, content) {
        delivery_tag: longlong, redelivered: bit, exchange: shortbytes, routing_key: shortbytes,
        message_count: long,
    }
    /// There was no message. The argument is reserved.
    BasicGetEmpty = (60, 72, "basic.get-empty", Server) { cluster_id: shortstr }
    /// Acknowledges deliveries; from the server, a publisher confirm.
    #[derive(Copy)]
    BasicAck = (60, 80, "basic.ack", Both) { delivery_tag: longlong, multiple: bit }
    /// Rejects a delivery.
    #[derive(Copy)]
    BasicReject = (60, 90, "basic.reject", Client) { delivery_tag: longlong, requeue: bit }
    /// Requeues the unacknowledged deliveries of the channel, without a confirmation.
    BasicRecoverAsync = (60, 100, "basic.recover-async", Client) { requeue: bit }
    /// Requeues the unacknowledged deliveries of the channel.
    BasicRecover = (60, 110, "basic.recover", Client) { requeue: bit }
    /// Confirms basic.recover.
    BasicRecoverOk = (60, 111, "basic.recover-ok", Server) {}
    /// RabbitMQ extension: rejects deliveries; from the server, a negative confirm.
    #[derive(Copy)]
    BasicNack = (60, 120, "basic.nack", Both) {
        delivery_tag: longlong, multiple: bit, requeue: bit,
    }

    // Class tx.
    /// Makes the channel transactional.
    TxSelect = (90, 10, "tx.select", Client) {}
    /// Confirms tx.select.
    TxSelectOk = (90, 11, "tx.select-ok", Server) {}
    /// Commits the transaction.
    TxCommit = (90, 20, "tx.commit", Client) {}
    /// Confirms tx.commit.
    TxCommitOk = (90, 21, "tx.commit-ok", Server) {}
    /// Drops the transaction.
    TxRollback = (90, 30, "tx.rollback", Client) {}
    /// Confirms tx.rollback.
    TxRollbackOk = (90, 31, "tx.rollback-ok", Server) {}

    // Class confirm.
    /// RabbitMQ extension: turns on publisher confirms.
    ConfirmSelect = (85, 10, "confirm.select", Client) { no_wait: bit }
    /// Confirms confirm.select.
    ConfirmSelectOk = (85, 11, "confirm.select-ok", Server) {}
}
