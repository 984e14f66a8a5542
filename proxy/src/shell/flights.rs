//! Questions to a coordinator that are under way, one for each tenant: whoever asks for the same
//! tenant meanwhile waits for that answer. Used for lookups (`on_demand`) and, where all tenants are
//! held, for the placing of new ones (`service/lookup`).
//!
//! A flight holds its tenant's [`Cell`] from before the question is asked until the answer is kept:
//! a delta that comes meanwhile finds it here, whatever a cache has driven out (I4). Bounded (I12).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use maia_common::limits;
use maia_common::runtime::GateError;

use crate::core::fingerprint::Fingerprint;
use crate::shell::lookups::{Answer, LookupError};

/// So many tenants at once are asked for by all that may ask.
const MAX_FLIGHTS: usize = (limits::MAX_PROXY_LOOKUPS + limits::MAX_PROXY_PLACINGS) as usize;

/// What is known of one tenant.
#[derive(Debug, Clone, Copy)]
pub struct News {
    /// Snapshots before it: it says nothing about those after it.
    pub era: u64,
    /// The newest answer or delta.
    pub answer: Answer,
    /// The origin refused what was routed by it: to be asked for again.
    pub doubted: bool,
}

/// Where what is known of one tenant is kept.
#[derive(Debug, Default)]
pub struct Cell(Mutex<Option<News>>);

impl Cell {
    /// What is known of this era and not doubted.
    #[must_use]
    pub fn answer(&self, era: u64) -> Option<Answer> {
        let news = *self.lock();
        let news = news.filter(|news| news.era == era && !news.doubted);
        news.map(|news| news.answer)
    }

    /// The newer one wins.
    pub fn offer(&self, era: u64, answer: Answer) {
        let mut news = self.lock();
        let order = (era, answer.revision);
        if news.is_none_or(|old| (old.era, old.answer.revision) <= order) {
            *news = Some(News {
                era,
                answer,
                doubted: false,
            });
        }
    }

    /// Doubts what is known if `stale` says so; what is older is still not taken after that.
    pub fn doubt(&self, stale: impl FnOnce(&Answer) -> bool) {
        if let Some(news) = self.lock().as_mut() {
            news.doubted |= stale(&news.answer);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<News>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Flight {
    cell: Arc<Cell>,
    /// Held while one asks for all who wait.
    turn: tokio::sync::Mutex<()>,
}

/// See the module.
#[derive(Default)]
pub struct Flights(Mutex<HashMap<Fingerprint, (Arc<Flight>, usize)>>);

/// Somebody who waits for an answer. The last one to go ends the flight.
pub struct Passenger<'f> {
    flights: &'f Flights,
    print: Fingerprint,
    flight: Arc<Flight>,
}

impl Flights {
    /// Joins the tenant's flight; the first one brings what `known` of it, if anything.
    ///
    /// # Errors
    /// [`LookupError::TooMany`]
    pub fn board(
        &self,
        print: Fingerprint,
        known: Option<Arc<Cell>>,
    ) -> Result<Passenger<'_>, LookupError> {
        let mut flights = self.lock();
        if flights.len() >= MAX_FLIGHTS && !flights.contains_key(&print) {
            return Err(LookupError::TooMany(GateError::Full));
        }
        let (flight, passengers) = flights.entry(print).or_insert_with(|| {
            let cell = known.unwrap_or_default();
            let turn = tokio::sync::Mutex::default();
            (Arc::new(Flight { cell, turn }), 0)
        });
        *passengers += 1;
        let flight = Arc::clone(flight);
        drop(flights);
        Ok(Passenger {
            flights: self,
            print,
            flight,
        })
    }

    /// The cell of a tenant that is asked for now.
    #[must_use]
    pub fn cell(&self, print: Fingerprint) -> Option<Arc<Cell>> {
        let flights = self.lock();
        flights
            .get(&print)
            .map(|(flight, _)| Arc::clone(&flight.cell))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Fingerprint, (Arc<Flight>, usize)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Passenger<'_> {
    /// Where the answer goes.
    #[must_use]
    pub fn cell(&self) -> &Arc<Cell> {
        &self.flight.cell
    }

    /// Waits until nobody else of the flight asks.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.flight.turn.lock().await
    }
}

impl Passenger<'_> {
    /// Asks about the tenant, unless an answer that names a placement has come for those who asked
    /// at the same time. For proxies that keep no answers: whoever stays aboard until the answer is
    /// in force keeps those who come meanwhile from asking again.
    ///
    /// # Errors
    /// Those of `ask`.
    pub async fn ask_once(
        &self,
        ask: impl Future<Output = Result<Answer, LookupError>>,
    ) -> Result<Answer, LookupError> {
        let _turn = self.turn().await;
        if let Some(answer) = self.cell().answer(0).filter(|a| a.entry.is_some()) {
            return Ok(answer);
        }
        let answer = ask.await?;
        self.cell().offer(0, answer);
        Ok(answer)
    }
}

impl Drop for Passenger<'_> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        if let Some((_, passengers)) = flights.get_mut(&self.print) {
            *passengers -= 1;
            if *passengers == 0 {
                flights.remove(&self.print);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use maia_common::{GroupId, Revision, Version};

    use super::*;
    use crate::core::table::Entry;

    const PRINT: Fingerprint = Fingerprint { high: 1, low: 2 };

    #[tokio::test]
    async fn all_who_ask_at_once_get_one_answer_and_the_next_asks_anew() {
        let flights = Flights::default();
        let asked = std::sync::atomic::AtomicUsize::new(0);
        let ask = async || {
            let passenger = flights.board(PRINT, None)?;
            let question = async {
                asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                tokio::task::yield_now().await;
                let entry = Entry {
                    group: GroupId::new(1),
                    version: Version::new(1),
                    holding: false,
                    write_routing: None,
                };
                let revision = Revision::new(5);
                let entry = Some(entry);
                Ok(Answer { revision, entry })
            };
            passenger.ask_once(question).await
        };
        let (one, two) = tokio::join!(ask(), ask());
        assert!(one.is_ok() && two.is_ok());
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1);
        assert!(flights.cell(PRINT).is_none(), "it has landed");
        assert!(ask().await.is_ok());
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 2);
    }

    #[test]
    fn there_are_only_so_many() {
        let flights = Flights::default();
        let of = |low| Fingerprint { high: 0, low };
        let all: Vec<_> = (0..MAX_FLIGHTS as u64)
            .map(|low| flights.board(of(low), None).unwrap())
            .collect();
        let full = flights.board(of(u64::MAX), None);
        assert!(matches!(full, Err(LookupError::TooMany(_))));
        assert!(flights.board(of(0), None).is_ok(), "under way already");
        drop(all);
        assert!(flights.board(of(u64::MAX), None).is_ok());
    }
}
