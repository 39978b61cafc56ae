//! Calls that come in at the door of a `websocket` line.

use std::rc::Rc;

use log::info;
use tokio::task::spawn_local;

use crate::{
    daemon::calls::Shared,
    leg::websocket::door::{self, Arrival},
};

impl Shared {
    /// A vendor has said which call it is: it can begin.
    pub(super) fn on_arrival(self: &Rc<Self>, arrival: Arrival) {
        let line = &self.config.lines[arrival.line].name;
        info!(line, dialect = arrival.dialect.name(), peer:% = arrival.peer; "a call arrived, and is given back");
        spawn_local(async move {
            // Broken or not, it is closed now.
            let _ = door::turn_away(arrival, "calls of this line are not taken yet").await;
        });
    }
}
