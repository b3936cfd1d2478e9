//! The commands.

<<<<<<< .merge_file_gwA4kY
pub mod check;
pub mod routes;
=======
pub mod dissect;
>>>>>>> .merge_file_8qkC5w
