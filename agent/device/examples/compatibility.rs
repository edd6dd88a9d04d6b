//! Prints the page of what is known of which device.

fn main() {
    print!("{}", device::compatibility::page());
}
