//! Tells the linker that Node provides Node-API (macOS).

fn main() {
    napi_build::setup();
}
