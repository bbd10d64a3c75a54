//! Secrets from files: whatever `NAME` gives may come from the file that `NAME_FILE` names, as Docker and Kubernetes mount them.
//! It then is in no environment, which every child and every crash report has.

use clap::{Arg, Command};
use std::ffi::OsString;

/// Lets the secret settings of the command, and of its subcommands, come from files. Secret is every setting whose value the help
/// does not show. The error says which variable is wrong; no content of a file is in it.
pub fn fill(command: Command) -> Result<Command, String> {
    let mut wrong = None;
    let filled = fill_all(command, &mut wrong);
    wrong.map_or(Ok(filled), Err)
}

fn fill_all(command: Command, wrong: &mut Option<String>) -> Command {
    let command = command.mut_args(|arg| {
        let Some(name) = name_of_secret(&arg) else { return arg };
        let file = format!("{name}_FILE");
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let arg = arg.help(format!("{help}. Or in the file {file}"));
        match read(&name, std::env::var_os(&name), &file, std::env::var_os(&file)) {
            // It stays until the program ends.
            Ok(Some(value)) => arg.default_value(&*value.leak()).hide_default_value(true).required(false),
            Ok(None) => arg,
            Err(error) => {
                wrong.get_or_insert(error);
                arg
            }
        }
    });
    command.mut_subcommands(|one| fill_all(one, wrong))
}

fn name_of_secret(arg: &Arg) -> Option<String> {
    arg.get_env().filter(|_| arg.is_hide_env_values_set())?.to_str().map(str::to_owned)
}

/// The content of the file, without the end of its last line. `None` if no file is named.
fn read(name: &str, value: Option<OsString>, file: &str, path: Option<OsString>) -> Result<Option<String>, String> {
    let Some(path) = path.filter(|path| !path.is_empty()) else { return Ok(None) };
    let path = std::path::PathBuf::from(path);
    if value.is_some() {
        return Err(format!("{name} and {file} are both set: unset one of them"));
    }
    let content = std::fs::read_to_string(&path).map_err(|error| format!("{file}={}: {error}", path.display()))?;
    match content.trim_end_matches(['\n', '\r']) {
        "" => Err(format!("{file}={}: the file is empty", path.display())),
        secret => Ok(Some(secret.to_owned())),
    }
}
