//! What `std` would bring, without the WASI that it would bring along.
//!
//! A component with `std` imports clocks, streams and an environment for its
//! panic message alone. This one imports nothing: it has an allocator, a panic
//! that traps, and the function by which the canonical ABI allocates.

#![allow(unsafe_code, reason = "cabi_realloc is an unsafe interface of the canonical ABI")]

use alloc::alloc::{Layout, alloc, realloc};

#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}

/// Allocates or grows a block for the host to put arguments into. wasi-libc has
/// this for crates that link it; this one does not.
#[unsafe(no_mangle)]
unsafe extern "C" fn cabi_realloc(
    old: *mut u8,
    old_length: usize,
    align: usize,
    new_length: usize,
) -> *mut u8 {
    // SAFETY: the canonical ABI passes an alignment that is a power of two, and
    // as `old` and `old_length` what an earlier call answered and was asked for.
    let new = unsafe {
        if new_length == 0 {
            return core::ptr::without_provenance_mut(align);
        } else if old_length != 0 {
            realloc(old, Layout::from_size_align_unchecked(old_length, align), new_length)
        } else {
            alloc(Layout::from_size_align_unchecked(new_length, align))
        }
    };
    if new.is_null() {
        core::arch::wasm32::unreachable();
    }
    new
}

/// Compares two blocks: what slices and strings are compared with. On WASI it is
/// libc's, which this crate does not link.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
    let mut at = 0;
    // Eight bytes at once, as long as they are the same.
    while length - at >= 8 {
        // SAFETY: the caller says that both blocks have `length` bytes.
        let (x, y) = unsafe {
            (a.add(at).cast::<u64>().read_unaligned(), b.add(at).cast::<u64>().read_unaligned())
        };
        if x != y {
            break;
        }
        at += 8;
    }
    while at < length {
        // SAFETY: as above.
        let (x, y) = unsafe { (*a.add(at), *b.add(at)) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
        at += 1;
    }
    0
}
