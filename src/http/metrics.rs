use crate::engine::gateway::Gateway;
use std::sync::Arc;
pub const CONTENT_TYPE: &str = "text/plain";
pub fn render(_: &Arc<Gateway>) -> String {
    String::new()
}
