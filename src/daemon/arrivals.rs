//! Calls that come in at the door of a `websocket` line.

use std::rc::Rc;

use tokio::task::spawn_local;

use crate::{
    daemon::calls::{self, Shared},
    leg::websocket::door::{self, Arrival},
};

impl Shared {
    /// A vendor has said which call it is: it can begin.
    pub(super) fn on_arrival(self: &Rc<Self>, arrival: Arrival) {
        if self.is_stranger(&arrival) {
            self.on_stranger(&arrival);
            spawn_local(async move {
                // Broken or not, it is closed now.
                let _ = door::turn_away(arrival, door::POLICY, "nobody asked for a stream of this call").await;
            });
            return;
        }
        // Between the upgrade and its start others may have come, or the end of the daemon.
        if let Some(line) = self.seat(arrival.line) {
            let rate = arrival.rate;
            self.begin(line, calls::Arrival::Websocket(Box::new(arrival)), rate);
            return;
        }
        spawn_local(async move {
            // Broken or not, it is closed now.
            let _ = door::turn_away(arrival, door::TRY_LATER, "all seats are taken").await;
        });
    }

    /// Whether it names a call of Telnyx's whose stream was not asked for, where only those come that were.
    fn is_stranger(&self, arrival: &Arrival) -> bool {
        let Arrival { line, path, facts, .. } = arrival;
        self.telnyx.as_ref().is_some_and(|telnyx| telnyx.is_stranger(*line, *path, &facts.call_sid))
    }
}
