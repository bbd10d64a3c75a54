//! Counts the places for requests in flight. A request that is posted alone takes a place at once or is refused. Bulk
//! calls wait for their places, in turn, and never have all of them, so that single requests get some.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bulk calls have at most one in this many places. By default the places are four times what is in flight at full
/// throughput, so bulk calls can have twice that. With more, requests that are posted alone would wait longer behind
/// them, and nothing would be faster.
const BULK_SHARE: usize = 2;
/// A bulk call takes at most one in this many of those places at a time, and then queues behind the other calls.
/// Smaller turns share more evenly, and cost more.
const TURN_SHARE: usize = 16;

/// A number of places.
#[derive(Debug)]
pub struct Room {
    places: Arc<Semaphore>,
    /// Bulk calls take one of these for each place. Waiting calls get them in the order in which they came.
    bulk: Arc<Semaphore>,
    most: usize,
    most_bulk: usize,
}

/// Places that are taken until this is dropped.
#[derive(Debug)]
pub struct Places {
    places: OwnedSemaphorePermit,
    bulk: Option<OwnedSemaphorePermit>,
}

/// All places are taken.
#[derive(Debug)]
pub struct Full;

impl Room {
    /// A room of `most` places, all free.
    pub fn new(most: usize) -> Self {
        let most_bulk = (most / BULK_SHARE).max(1);
        let semaphore = |places| Arc::new(Semaphore::new(places));
        Self { places: semaphore(most), bulk: semaphore(most_bulk), most, most_bulk }
    }

    /// Takes one place, at once.
    pub fn enter(&self) -> Result<Places, Full> {
        let places = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Full)?;
        Ok(Places { places, bulk: None })
    }

    /// Takes `count` places for a bulk call, at most [`Self::share`]. Waits behind the calls that came before.
    pub async fn wait_for_places(&self, count: u32) -> Result<Places, Full> {
        let bulk = Arc::clone(&self.bulk).acquire_many_owned(count).await.map_err(|_| Full)?;
        let places = Arc::clone(&self.places).acquire_many_owned(count).await.map_err(|_| Full)?;
        Ok(Places { places, bulk: Some(bulk) })
    }

    /// Most places that a bulk call takes at a time.
    pub fn share(&self) -> usize {
        (self.most_bulk / TURN_SHARE).max(1)
    }

    /// How many places bulk calls could take now.
    pub fn left_for_bulk(&self) -> usize {
        self.bulk.available_permits().min(self.places.available_permits())
    }

    /// How many places are taken.
    pub fn taken(&self) -> usize {
        self.most.saturating_sub(self.places.available_permits())
    }
}

impl Places {
    /// Splits off one place; `None` if there is none.
    pub fn split(&mut self) -> Option<Self> {
        let places = self.places.split(1)?;
        let bulk = self.bulk.as_mut().and_then(|bulk| bulk.split(1));
        Some(Self { places, bulk })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn bulk_never_takes_all_places() {
        let room = Room::new(8);
        let mut held = vec![];
        while let Some(places) = room.wait_for_places(1).now_or_never() {
            held.push(places.unwrap());
        }
        assert_eq!((held.len(), room.taken(), room.left_for_bulk()), (4, 4, 0));
        let alone: Vec<Places> = std::iter::from_fn(|| room.enter().ok()).collect();
        assert_eq!((alone.len(), room.taken()), (4, 8));
        assert!(Room::new(1).wait_for_places(1).now_or_never().is_some(), "where there is one place, bulk may have it");
    }

    #[tokio::test]
    async fn who_waits_is_served_in_turn_as_places_are_given_back_one_by_one() {
        let room = Room::new(64);
        assert_eq!(room.share(), 2);
        let mut all = room.wait_for_places(32).await.unwrap();
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(room.wait_for_places(2))).collect();
        let mut served = |turn: usize| waiting[turn].as_mut().now_or_never();
        assert!((0..3).all(|turn| served(turn).is_none()));
        drop(all.split());
        assert!(served(0).is_none(), "it waits for two");
        drop(all.split());
        let (second, first) = (served(1), served(0));
        assert!(first.is_some() && second.is_none() && served(2).is_none());
        drop(first);
        let (third, second) = (served(2), served(1));
        assert!(second.is_some() && third.is_none());
        drop((all, second));
        assert!(served(2).is_some());
    }

    #[tokio::test]
    async fn who_gives_up_waiting_takes_no_places_along() {
        let room = Room::new(8);
        let all = room.wait_for_places(4).await.unwrap();
        let mut waiting = Box::pin(room.wait_for_places(1));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop((waiting, all));
        assert_eq!(room.left_for_bulk(), 4);
    }

    #[tokio::test]
    async fn bulk_waits_for_those_who_are_alone_too() {
        let room = Room::new(2);
        let (one, two) = (room.enter().unwrap(), room.enter().unwrap());
        assert!(room.enter().is_err());
        let mut waiting = Box::pin(room.wait_for_places(1));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(one);
        assert!(waiting.await.is_ok());
        drop(two);
    }
}
