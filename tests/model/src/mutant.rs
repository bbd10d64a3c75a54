//! Mutants: the protocol with one mistake in it. The walk must find the promise that each mutant breaks.

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// A stale attempt is published again under any epoch that it is told. The first version of the rule did that.
    StaleTakesAnyEpoch,
    /// An attempt goes by the count that its intake holds when it publishes, not by the one that was held at receipt.
    CountIsTakenAtPublication,
    /// Giving up on a keyed request voids its own attempt and leaves the key's epoch alone.
    ResolutionDoesNotRaise,
    /// The key's row does not get the count of its raise.
    RaiseIsNotStored,
    /// Raising a key does not count up.
    RaiseIsNotCounted,
    /// The count of a raise is drawn some time before its commit, as from a sequence, and no lock is held between.
    CountIsDrawnBeforeTheCommit,
    /// The worker voids a message past its deadline and leaves the key's epoch alone.
    DeadlineVoidDoesNotRaise,
    /// The void of a stale attempt raises the key's epoch.
    StaleVoidRaises,
    /// The worker replies before its commit.
    ReplyBeforeTheCommit,
    /// The worker takes a COMMIT without an answer for one that was undone, and refuses the batch.
    FailedCommitIsTakenForARollback,
    /// When the time is up the intake answers 500 without a void, or after one whose COMMIT failed.
    FiveHundredWithoutAVoid,
    /// The intake looks for the row with a plain `SELECT`, which does not wait for a transaction in doubt.
    VoidDoesNotWait,
    /// The intake reads the key without locking it, and so beside a transaction in doubt.
    KeyIsReadWithoutItsLock,
    /// A void replaces the row that is there already.
    VoidReplacesTheRow,
    /// The statement that settles at once does not check that the key has no row.
    AtOnceIgnoresTheKey,
    /// The statement that settles at once does not check the account that the worker remembers.
    AtOnceIgnoresTheAccount,
    /// The statement that settles at once compares the payout balance instead of the number of the last movement.
    AtOnceComparesTheBalance,
    /// The statement that settles at once does not check that all rows are new.
    AtOnceIgnoresTheRows,
    /// A worker that settles step by step does not notice that fewer rows went in than were sent.
    StepByStepIgnoresTheRows,
    /// A reversal does not check that the payout user still has the money.
    ReversalIgnoresTheUser,
    /// A reversal does not check that anything is left of the allocation.
    ReversalIgnoresWhatIsLeft,
    /// The answer to a stale attempt that may not go on is given without a void of its own.
    SupersededWithoutAVoid,
}
