//! Where a command finds its data: the store of a stopped gateway, or a running gateway's admin API.

use super::{Exit, say};
use crate::clock;
use crate::config;
use crate::config::model::EndpointConfig;
use crate::engine::registry::layered;
use crate::store::{OpenOptions, Store, StoreError};
use std::path::PathBuf;
use std::sync::Arc;

/// Which gateway is meant.
#[derive(Clone, Debug, clap::Args)]
pub struct Place {
    /// The configuration that names the store.
    #[arg(long, value_name = "FILE", default_value = "config.yaml")]
    pub config: PathBuf,
    /// The store's folder, whatever the configuration says.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["config", "url"])]
    pub store: Option<PathBuf>,
    /// Ask the running gateway there instead of opening a store; the token is BREAKWATER_ADMIN_TOKEN or --token.
    #[arg(long)]
    pub url: Option<String>,
    #[arg(long, env = "BREAKWATER_ADMIN_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// What for a store is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To look at it; there has to be one.
    Read,
    /// To change it; there has to be one.
    Change,
    /// To change it; one is made if there is none.
    Begin,
}

impl Place {
    /// Opens the stopped gateway's store; the message for a failure is out.
    ///
    /// # Errors
    /// How the command ends.
    pub fn open(&self, purpose: Purpose) -> Result<Store, Exit> {
        self.try_open(purpose)?.map_err(|e| failed(&e))
    }

    /// Opens it too, and gives the store's own error back.
    ///
    /// # Errors
    /// How the command ends if it is not even known where the store is; the message is out.
    pub fn try_open(&self, purpose: Purpose) -> Result<Result<Store, StoreError>, Exit> {
        let path = match &self.store {
            Some(path) => path.clone(),
            None => match config::load_store(&self.config) {
                Ok(store) => store.path,
                Err(faults) => {
                    say(&faults.to_string());
                    return Err(Exit::Usage);
                }
            },
        };
        let options = OpenOptions {
            create: purpose == Purpose::Begin,
            read_only: purpose == Purpose::Read,
            ..OpenOptions::at(&path, clock::wall())
        };
        let opened = Store::open(&options).map(|(store, report)| {
            for lost in &report.missing {
                say(&format!("warning: {}: {lost}", path.display()));
            }
            store
        });
        Ok(opened)
    }
}

impl Place {
    /// The endpoints that the configuration names, with the changes made at run time; none if only a store is named. The message for a
    /// failure is out.
    ///
    /// # Errors
    /// How the command ends.
    pub fn endpoints(&self, store: &Store) -> Result<Vec<Arc<EndpointConfig>>, Exit> {
        if self.store.is_some() {
            return Ok(Vec::new());
        }
        let config = config::load(&self.config).map_err(|faults| {
            say(&faults.to_string());
            Exit::Usage
        })?;
        layered(&config, &store.state()).map_err(|e| {
            say(&e);
            Exit::Failed
        })
    }
}

/// Says what is wrong with the store and gives the exit code for it.
pub fn failed(error: &StoreError) -> Exit {
    let (exit, hint) = match error {
        StoreError::InUse { .. } => (Exit::Failed, "; it belongs to a running gateway: ask that one with --url"),
        StoreError::Missing { .. } | StoreError::NewerSchema { .. } | StoreError::Unwritable { .. } => {
            (Exit::Usage, "")
        }
        StoreError::ReadOnly { .. } => (
            Exit::Failed,
            "; restore it, or start the gateway with --accept-ledger-loss to go on without what is missing",
        ),
        StoreError::Removed { before, .. } => {
            say(&format!("{error}: ask for whole hours, or give --from {}", before.to_rfc3339()));
            return Exit::Failed;
        }
        _ => (Exit::Failed, ""),
    };
    say(&format!("{error}{hint}"));
    exit
}
