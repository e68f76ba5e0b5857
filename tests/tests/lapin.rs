//! lapin, the Rust client, at real work against a running broker.
//!
//! `LEVERET_TEST_BROKER` is the broker's AMQP URL; `tests/run` sets it. Without it the tests say so and do nothing,
//! unless `LEVERET_TEST_RUN` is set, with which a missing address is a failure. The restart test starts the binary that
//! `LEVERET_TEST_BINARY` names.

use std::{
    env,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_lite::StreamExt;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ExchangeKind,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions,
        BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
        QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const DEADLINE: Duration = Duration::from_secs(60);
const LARGE_BYTES: usize = 10 * 1024 * 1024;

/// The value of a variable that `tests/run` sets. None, with a word on stderr, outside of it.
fn setting(name: &str) -> Option<String> {
    let value = env::var(name).ok();
    if value.is_none() {
        assert!(
            env::var_os("LEVERET_TEST_RUN").is_none(),
            "{name} is not set"
        );
        eprintln!("SKIPPED: {name} is not set; tests/run sets it");
    }
    value
}

/// A name that no other test, and no other run, has.
fn unique(name: &str) -> ShortString {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    format!(
        "lapin-{name}-{now}-{}",
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
    .into()
}

async fn connect(url: &str) -> Result<Connection, Failure> {
    Ok(Connection::connect(url, ConnectionProperties::default()).await?)
}

/// Runs a scenario with the broker's address, within the deadline.
async fn scenario<F>(body: impl FnOnce(String) -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    match setting("LEVERET_TEST_BROKER") {
        Some(url) => tokio::time::timeout(DEADLINE, body(url)).await?,
        None => Ok(()),
    }
}

fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}

async fn declare(channel: &Channel, name: &ShortString) -> Result<(), Failure> {
    let options = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    channel
        .queue_declare(name.clone(), options, FieldTable::default())
        .await?;
    Ok(())
}

/// Publishes one persistent message to a queue and waits for its confirm.
async fn put(channel: &Channel, queue: &ShortString, body: &[u8]) -> Result<(), Failure> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..Default::default()
    };
    let confirm = channel
        .basic_publish("".into(), queue.clone(), options, body, persistent())
        .await?
        .await?;
    assert!(confirm.is_ack());
    assert!(confirm.take_message().is_none(), "returned");
    Ok(())
}

async fn consume(channel: &Channel, queue: &ShortString) -> Result<Consumer, Failure> {
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    Ok(channel
        .basic_consume(queue.clone(), "".into(), options, arguments)
        .await?)
}

async fn confirming(connection: &Connection) -> Result<Channel, Failure> {
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    Ok(channel)
}

async fn finish(
    connection: Connection,
    channel: &Channel,
    queue: ShortString,
) -> Result<(), Failure> {
    channel
        .queue_delete(queue, QueueDeleteOptions::default())
        .await?;
    connection.close(200, "done".into()).await?;
    Ok(())
}

#[tokio::test]
async fn publishes_with_confirms_in_flight_and_consumes_in_order() -> Result<(), Failure> {
    scenario(async |url| {
        const COUNT: u32 = 2000;
        let connection = connect(&url).await?;
        let (channel, queue) = (confirming(&connection).await?, unique("confirms"));
        declare(&channel, &queue).await?;
        let mut confirms = Vec::new();
        for number in 0..COUNT {
            let options = BasicPublishOptions::default();
            let body = number.to_be_bytes();
            let publish =
                channel.basic_publish("".into(), queue.clone(), options, &body, persistent());
            confirms.push(publish.await?);
        }
        for confirm in confirms {
            assert!(confirm.await?.is_ack());
        }
        channel.basic_qos(100, BasicQosOptions::default()).await?;
        let mut consumer = consume(&channel, &queue).await?;
        for number in 0..COUNT {
            let delivery = consumer.next().await.ok_or("cancelled")??;
            assert_eq!(delivery.data, number.to_be_bytes());
            assert!(!delivery.redelivered);
            delivery.ack(BasicAckOptions::default()).await?;
        }
        finish(connection, &channel, queue).await
    })
    .await
}

#[tokio::test]
async fn large_message_and_its_properties_arrive() -> Result<(), Failure> {
    scenario(async |url| {
        let connection = connect(&url).await?;
        let (channel, queue) = (confirming(&connection).await?, unique("large"));
        declare(&channel, &queue).await?;
        let body: Vec<u8> = (0..LARGE_BYTES).map(|at| (at * 31 % 251) as u8).collect();
        let mut headers = FieldTable::default();
        headers.insert("number".into(), AMQPValue::LongLongInt(1 << 40));
        headers.insert("flag".into(), AMQPValue::Boolean(true));
        let properties = persistent()
            .with_headers(headers)
            .with_content_type("application/octet-stream".into())
            .with_correlation_id("c".into())
            .with_timestamp(1_700_000_000);
        let options = BasicPublishOptions::default();
        channel
            .basic_publish("".into(), queue.clone(), options, &body, properties.clone())
            .await?
            .await?;
        let message = channel
            .basic_get(queue.clone(), BasicGetOptions { no_ack: true })
            .await?
            .ok_or("no message")?;
        assert_eq!(message.delivery.properties, properties);
        assert!(message.delivery.data == body, "the body differs");
        finish(connection, &channel, queue).await
    })
    .await
}

#[tokio::test]
async fn many_channels_at_once() -> Result<(), Failure> {
    scenario(async |url| {
        const COUNT: u32 = 200;
        let connection = connect(&url).await?;
        let (own, queue) = (confirming(&connection).await?, unique("channels"));
        declare(&own, &queue).await?;
        let mut channels = Vec::new();
        for number in 0..COUNT {
            let channel = confirming(&connection).await?;
            put(&channel, &queue, &number.to_be_bytes()).await?;
            channels.push(channel);
        }
        let state = own
            .queue_delete(queue, QueueDeleteOptions::default())
            .await?;
        assert_eq!(state, COUNT);
        for channel in channels {
            channel.close(200, "done".into()).await?;
        }
        connection.close(200, "done".into()).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn unroutable_mandatory_message_is_returned_before_its_confirm() -> Result<(), Failure> {
    scenario(async |url| {
        let connection = connect(&url).await?;
        let channel = confirming(&connection).await?;
        let options = BasicPublishOptions {
            mandatory: true,
            ..Default::default()
        };
        let confirm = channel
            .basic_publish("".into(), unique("nobody"), options, b"x", persistent())
            .await?
            .await?;
        assert!(confirm.is_ack());
        let returned = confirm.take_message().ok_or("not returned")?;
        assert_eq!(
            (returned.reply_code, returned.reply_text.as_str()),
            (312, "NO_ROUTE")
        );
        connection.close(200, "done".into()).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn rpc_over_direct_reply_to() -> Result<(), Failure> {
    scenario(async |url| {
        let (serving, calling) = (connect(&url).await?, connect(&url).await?);
        let (server, client) = (
            serving.create_channel().await?,
            calling.create_channel().await?,
        );
        let queue = unique("rpc");
        declare(&server, &queue).await?;
        let mut requests = consume(&server, &queue).await?;
        let answering = tokio::spawn(async move {
            while let Some(Ok(request)) = requests.next().await {
                let to = request.properties.reply_to().clone().unwrap_or_default();
                let id = request
                    .properties
                    .correlation_id()
                    .clone()
                    .unwrap_or_default();
                let properties = BasicProperties::default().with_correlation_id(id);
                let (options, body) = (BasicPublishOptions::default(), &request.data);
                server
                    .basic_publish("".into(), to, options, body, properties)
                    .await?;
                request.ack(BasicAckOptions::default()).await?;
            }
            Ok::<_, lapin::Error>(())
        });
        let reply_to = ShortString::from("amq.rabbitmq.reply-to");
        let options = BasicConsumeOptions {
            no_ack: true,
            ..Default::default()
        };
        let mut replies = client
            .basic_consume(reply_to.clone(), "".into(), options, FieldTable::default())
            .await?;
        for number in 0..200u32 {
            let properties = BasicProperties::default()
                .with_reply_to(reply_to.clone())
                .with_correlation_id(number.to_string().into());
            let (options, body) = (BasicPublishOptions::default(), number.to_be_bytes());
            client
                .basic_publish("".into(), queue.clone(), options, &body, properties)
                .await?;
            let reply = replies.next().await.ok_or("cancelled")??;
            assert_eq!(reply.data, body);
        }
        finish(calling, &client, queue).await?;
        // Its queue is gone: the broker cancels the server's consumer, which ends the loop.
        answering.await??;
        serving.close(200, "done".into()).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn consumer_is_told_when_its_queue_is_deleted() -> Result<(), Failure> {
    scenario(async |url| {
        let connection = connect(&url).await?;
        let (channel, queue) = (connection.create_channel().await?, unique("cancel"));
        declare(&channel, &queue).await?;
        let mut consumer = consume(&channel, &queue).await?;
        let other = connection.create_channel().await?;
        other
            .queue_delete(queue, QueueDeleteOptions::default())
            .await?;
        assert!(
            consumer.next().await.is_none(),
            "a delivery instead of the end"
        );
        connection.close(200, "done".into()).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn nacked_messages_come_back_marked() -> Result<(), Failure> {
    scenario(async |url| {
        let connection = connect(&url).await?;
        let (channel, queue) = (confirming(&connection).await?, unique("nack"));
        declare(&channel, &queue).await?;
        put(&channel, &queue, b"x").await?;
        let mut consumer = consume(&channel, &queue).await?;
        let first = consumer.next().await.ok_or("cancelled")??;
        assert!(!first.redelivered);
        first
            .nack(BasicNackOptions {
                requeue: true,
                ..Default::default()
            })
            .await?;
        let second = consumer.next().await.ok_or("cancelled")??;
        assert!(second.redelivered);
        second.ack(BasicAckOptions::default()).await?;
        finish(connection, &channel, queue).await
    })
    .await
}

#[tokio::test]
async fn topic_exchange_routes() -> Result<(), Failure> {
    scenario(async |url| {
        let connection = connect(&url).await?;
        let (channel, queue) = (confirming(&connection).await?, unique("topic"));
        declare(&channel, &queue).await?;
        let options = ExchangeDeclareOptions {
            auto_delete: true,
            ..Default::default()
        };
        channel
            .exchange_declare(
                queue.clone(),
                ExchangeKind::Topic,
                options,
                FieldTable::default(),
            )
            .await?;
        for key in ["stock.*.nyse", "stock.#"] {
            let options = QueueBindOptions::default();
            channel
                .queue_bind(
                    queue.clone(),
                    queue.clone(),
                    key.into(),
                    options,
                    FieldTable::default(),
                )
                .await?;
        }
        for key in ["stock.usd.nyse", "stock", "bond.usd.nyse"] {
            let options = BasicPublishOptions::default();
            let body = key.as_bytes();
            channel
                .basic_publish(queue.clone(), key.into(), options, body, persistent())
                .await?
                .await?;
        }
        // A message goes to a queue once, however many of its bindings match.
        let count = channel
            .queue_delete(queue, QueueDeleteOptions::default())
            .await?;
        assert_eq!(count, 2);
        connection.close(200, "done".into()).await?;
        Ok(())
    })
    .await
}

/// A Leveret of the test's own, killed when it goes.
struct Broker {
    child: Child,
    port: u16,
}

impl Broker {
    async fn start(binary: &str, data: &Path, port: u16) -> Result<Self, Failure> {
        let child = Command::new(binary)
            .args(["server", "--data-dir"])
            .arg(data)
            .arg(format!("--set=listeners.tcp.test=127.0.0.1:{port}"))
            .args(["--set=management.tcp=none", "--set=prometheus.tcp=none"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let mut broker = Self { child, port };
        while connect(&broker.url()).await.is_err() {
            if let Some(status) = broker.child.try_wait()? {
                return Err(format!("the broker ended: {status}").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(broker)
    }

    fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // The broker may have ended by itself; there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn durable_queue_survives_a_kill() -> Result<(), Failure> {
    let Some(binary) = setting("LEVERET_TEST_BINARY") else {
        return Ok(());
    };
    tokio::time::timeout(DEADLINE, async {
        let data = tempfile::tempdir()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let broker = Broker::start(&binary, data.path(), port).await?;
        let connection = connect(&broker.url()).await?;
        let (channel, queue) = (confirming(&connection).await?, unique("kill"));
        declare(&channel, &queue).await?;
        for number in 0..100u32 {
            put(&channel, &queue, &number.to_be_bytes()).await?;
        }
        drop(broker);
        let broker = Broker::start(&binary, data.path(), port).await?;
        let connection = connect(&broker.url()).await?;
        let channel = connection.create_channel().await?;
        let mut consumer = consume(&channel, &queue).await?;
        for number in 0..100u32 {
            let delivery = consumer.next().await.ok_or("cancelled")??;
            assert_eq!(delivery.data, number.to_be_bytes());
            delivery.ack(BasicAckOptions::default()).await?;
        }
        connection.close(200, "done".into()).await?;
        Ok(())
    })
    .await?
}
