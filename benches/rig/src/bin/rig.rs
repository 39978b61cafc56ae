//! `rig run`: plays calls through a system and prints what was measured as one JSON object.
//! `rig ca`: writes a throwaway CA. `rig table`: turns the objects of many runs into Markdown.

use std::{io, path::Path, process::ExitCode, time::Duration};

use rig::{
    args::Args,
    load::{self, Plan},
    report, sip, tls,
};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let outcome = match args.next().as_deref() {
        Some("run") => run(args),
        Some("ca") => ca(args),
        Some("table") => table(args),
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("rig: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: impl Iterator<Item = String>) -> Result<(), String> {
    let known = [
        "dialect", "line", "sip", "agent", "tls", "calls", "warm-up", "seconds", "pid", "metrics", "system", "round",
        "pass",
    ];
    let args = Args::parse(args, &known)?;
    let optional = |name: &str| args.text(name).is_some();
    let plan = Plan {
        dialect: args.required("dialect").map_err(|why| format!("{why} (binary, ozonetel or exotel)"))?,
        line: args.required("line")?,
        sip: if optional("sip") { Some(args.required::<sip::Codec>("sip")?) } else { None },
        agent: args.required("agent")?,
        tls: args.text("tls").map(Into::into),
        calls: args.required("calls")?,
        warm_up: Duration::from_secs(args.or("warm-up", 2)?),
        window: Duration::from_secs(args.or("seconds", 10)?),
        pid: if optional("pid") { Some(args.required("pid")?) } else { None },
        metrics: if optional("metrics") { Some(args.required("metrics")?) } else { None },
    };
    if !(1..=4_095).contains(&plan.calls) {
        return Err("--calls is from 1 to 4095".to_owned());
    }
    let mut result = load::run(&plan).map_err(|why| why.to_string())?;
    let labels = ["system", "dialect", "round", "pass"];
    for (name, text) in labels.iter().filter_map(|name| Some((*name, args.text(name)?))) {
        result[name] = text.into();
    }
    result["transport"] = if plan.tls.is_some() { "wss" } else { "ws" }.into();
    println!("{result}");
    Ok(())
}

fn ca(args: impl Iterator<Item = String>) -> Result<(), String> {
    let args = Args::parse(args, &["dir"])?;
    tls::write_ca(Path::new(args.text("dir").ok_or("--dir is missing")?)).map_err(|why| why.to_string())
}

fn table(args: impl Iterator<Item = String>) -> Result<(), String> {
    Args::parse(args, &[])?;
    let lines = io::read_to_string(io::stdin()).map_err(|why| why.to_string())?;
    print!("{}", report::markdown(&lines)?);
    Ok(())
}

const USAGE: &str = "\
rig run --dialect D --line ADDR --agent ADDR --calls N [--seconds 10] [--warm-up 2] [--tls DIR] [--pid PID]
        [--metrics ADDR] [--system NAME] [--round N] [--pass NAME] [--sip pcmu|g722]
rig ca --dir DIR
rig table < results.jsonl";
