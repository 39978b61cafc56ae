//! A sink that is Redis: each item is an entry of a stream, with one field, `data`, that holds its JSON.

use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, RedisError, aio::MultiplexedConnection, cmd};
use tokio::{task::spawn_local, time::timeout};

use super::{Fault, connect::Connector, item::Item};
use crate::config::Secret;

/// A Redis and the connection to it.
pub(super) struct Redis {
    connector: Connector,
    info: RedisConnectionInfo,
    most_entries: u32,
    connection: Option<MultiplexedConnection>,
}

impl Redis {
    pub(super) fn new(
        connector: Connector,
        database: i64,
        user: Option<&str>,
        password: Option<&Secret>,
        most_entries: u32,
    ) -> Self {
        let mut info = RedisConnectionInfo::default().set_db(database).set_skip_set_lib_name();
        if let Some(user) = user {
            info = info.set_username(user);
        }
        if let Some(password) = password {
            info = info.set_password(password.reveal());
        }
        Self { connector, info, most_entries, connection: None }
    }

    /// Adds an item to its stream. When the answer is lost nobody knows whether it was added, and it is added again.
    pub(super) async fn deliver(&mut self, item: &Item) -> Result<(), Fault> {
        let added = self.connection().await?;
        let entry = entry(&item.topic, self.most_entries, &item.body);
        let mut connection = added;
        let outcome = timeout(self.connector.timeout(), entry.exec_async(&mut connection)).await;
        self.judge(outcome, connection)
    }

    /// Adds entries to one stream, all at once.
    pub(super) async fn deliver_all(&mut self, topic: &str, bodies: &[String]) -> Result<(), Fault> {
        let mut connection = self.connection().await?;
        let mut pipeline = Pipeline::with_capacity(bodies.len());
        for body in bodies {
            pipeline.add_command(entry(topic, self.most_entries, body)).ignore();
        }
        let outcome = timeout(self.connector.timeout(), pipeline.exec_async(&mut connection)).await;
        self.judge(outcome, connection)
    }

    async fn connection(&mut self) -> Result<MultiplexedConnection, Fault> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let stream = self.connector.connect().await.map_err(later)?;
        // The limit here is ours, around each command.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let greeting = MultiplexedConnection::new_with_config(&self.info, stream, config);
        let (connection, driver) = timeout(self.connector.timeout(), greeting)
            .await
            .map_err(|_| later("it did not answer the greeting".to_owned()))?
            .map_err(|error| later(told(&error)))?;
        // It ends when the last handle is dropped.
        spawn_local(driver);
        Ok(connection)
    }

    /// A connection on which something was not answered is not used again.
    fn judge(
        &mut self,
        outcome: Result<Result<(), RedisError>, tokio::time::error::Elapsed>,
        connection: MultiplexedConnection,
    ) -> Result<(), Fault> {
        match outcome {
            Ok(Ok(())) => {
                self.connection = Some(connection);
                Ok(())
            }
            // The key is something else than a stream: trying again does not change that.
            Ok(Err(error)) if error.code() == Some("WRONGTYPE") => {
                self.connection = Some(connection);
                Err(Fault::Never(told(&error)))
            }
            Ok(Err(error)) => Err(later(told(&error))),
            Err(_) => Err(later(format!("no answer in {} ms", self.connector.timeout().as_millis()))),
        }
    }
}

/// `XADD topic MAXLEN ~ n * data body` (Redis, "XADD"). Trimming about that far costs next to nothing.
fn entry(topic: &str, most_entries: u32, body: &str) -> Cmd {
    let mut entry = cmd("XADD");
    entry.arg(topic).arg("MAXLEN").arg("~").arg(most_entries).arg("*").arg("data").arg(body);
    entry
}

fn told(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    }
}

fn later(words: String) -> Fault {
    Fault::Later { words, wait: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_exactly_one_field() {
        let packed = entry("call_end", 1000, "{}").get_packed_command();
        assert_eq!(
            String::from_utf8_lossy(&packed),
            "*8\r\n$4\r\nXADD\r\n$8\r\ncall_end\r\n$6\r\nMAXLEN\r\n$1\r\n~\r\n$4\r\n1000\r\n$1\r\n*\r\n$4\r\ndata\r\n$2\r\n{}\r\n"
        );
    }
}
