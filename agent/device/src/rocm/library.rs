//! Opening a vendor's library at run time, and finding its functions.
#![allow(unsafe_code)]

use libloading::Library;

/// Where ROCm is installed when the loader was not told.
const USUAL_FOLDER: &str = "/opt/rocm/lib/";

/// The first of the names that can be loaded. The library stays loaded for good: vendors' libraries start threads and
/// register handlers that do not survive being unmapped.
pub(crate) fn open(names: &[&str]) -> Result<&'static Library, String> {
    let mut complaint = None;
    for folder in ["", USUAL_FOLDER] {
        for name in names {
            // SAFETY: loading a library runs its initialisers; that is why probing has a process of its own.
            match unsafe { Library::new(format!("{folder}{name}")) } {
                Ok(library) => return Ok(Box::leak(Box::new(library))),
                Err(error) => {
                    let error = error.to_string();
                    // A library that is here and does not load says more than one that is not here.
                    let absent = error.contains("No such file");
                    if complaint.is_none() || !absent {
                        complaint.get_or_insert(error.clone());
                    }
                    if !absent {
                        complaint = Some(error);
                    }
                }
            }
        }
    }
    Err(complaint.unwrap_or_else(|| "no name to look for".to_owned()))
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
