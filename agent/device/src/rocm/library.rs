//! Opening a vendor's library at run time, and finding its functions.
#![allow(unsafe_code)]

use crate::sysfs::printable;
use libloading::Library;

/// Where ROCm is installed when the loader was not told.
const USUAL_FOLDER: &str = "/opt/rocm/lib/";
/// Of the loader's complaint, as much as helps a person.
const COMPLAINT_LIMIT: usize = 300;

/// The first of the names that can be loaded, and its position. The library stays loaded for good: vendors' libraries
/// start threads and register handlers that do not survive being unmapped.
pub(crate) fn open(names: &[&str]) -> Result<(&'static Library, usize), String> {
    let (mut absent, mut broken) = (None, None);
    for folder in ["", USUAL_FOLDER] {
        for (position, name) in names.iter().enumerate() {
            // SAFETY: loading a library runs its initialisers; that is why probing has a process of its own.
            match unsafe { Library::new(format!("{folder}{name}")) } {
                Ok(library) => return Ok((Box::leak(Box::new(library)), position)),
                Err(error) => {
                    let error = printable(&error.to_string(), COMPLAINT_LIMIT).unwrap_or_default();
                    let slot = if error.contains("No such file") {
                        &mut absent
                    } else {
                        &mut broken
                    };
                    slot.get_or_insert(error);
                }
            }
        }
    }
    // A library that is here and does not load says more than one that is not here.
    Err(broken.or(absent).unwrap_or_default())
}

/// A function of the library, copied out of it.
pub(crate) fn symbol<T: Copy>(library: &'static Library, name: &'static str) -> Result<T, &'static str> {
    // SAFETY: `T` is the type that the library's header gives to the function of that name; the library stays loaded.
    unsafe { library.get::<T>(name.as_bytes()) }
        .map(|found| *found)
        .map_err(|_| name.trim_end_matches('\0'))
}

/// A table of a library's functions: `symbols!(Table { name: fn(types) -> type; … })`. Loading it fails with the name of
/// the first function that the library lacks.
macro_rules! symbols {
    ($table:ident { $($name:ident: fn($($argument:ty),* $(,)?) -> $result:ty;)* }) => {
        #[allow(non_snake_case)]
        struct $table {
            $($name: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl $table {
            fn load(library: &'static libloading::Library) -> Result<Self, &'static str> {
                Ok(Self {
                    $($name: $crate::rocm::library::symbol(library, concat!(stringify!($name), "\0"))?,)*
                })
            }
        }
    };
}
pub(crate) use symbols;
