//! Messages on subjects, as events.
