"""The production checklist: what must be true of a model that people rely on, part by part."""

from flows.policy.readiness import Finding
from flows.readiness import data, infrastructure, model, monitoring
from flows.readiness.lookups import Question, alerted, automation, counted, deployed, kept, ran, tagged
from flows.readiness.sources import Sources

PARTS = ("foundation", "features", "serving", "monitoring", "feedback")


def find_serving(sources: Sources) -> Finding:
    """Look whether the service answers from the champion that the registry names."""
    from flows.local.stack import read_live

    live, place = read_live(sources.settings), f"{sources.settings.service_url}/live"
    if live is None:
        return Finding(False, f"{place} does not answer", "", "Start the stack with `perennial up`.")
    holds = str(live.get("champion")) == str(sources.champion)
    told = f"serves version {live.get('champion')}; the registry names {sources.champion}"
    return Finding(holds, told, place, f"Read {sources.settings.home / 'logs' / 'service.log'}.")


def find_labels(sources: Sources) -> Finding:
    """Look whether outcomes found the answers that they are about."""
    labels = sources.table("labels")
    if not len(labels):
        return Finding(False, "no outcome has found its answer", "", "Run the daily loop.")
    told = f"{len(labels):,} answers have their outcome"
    return Finding(True, told, str(sources.settings.home / "lake" / "labels"))


def find_monitors(sources: Sources) -> Finding:
    """Look whether every monitor that a promotion asks for is live."""
    from flows.monitors import list_monitors

    required = [one for one in list_monitors(sources.project, sources.champion) if one.required]
    down = [one for one in required if not one.live]
    if down:
        found = "; ".join(f"{one.name}: {one.found}" for one in down)
        return Finding(False, found, "", " ".join(one.next_step for one in down))
    told = ", ".join(one.name for one in required)
    return Finding(True, f"live: {told}", f"{sources.settings.prefect_url}/deployments")


CHECKLIST: dict[str, tuple[Question, ...]] = {
    "foundation": (
        Question("What is installed is what the lock names", (monitoring.find_lock,)),
        Question("What serves was made by a commit", (model.find_commit,)),
        Question("Data lands through its rules", (data.find_batches,)),
        Question("Flows run by themselves", (deployed("daily-loop", scheduled=True),)),
    ),
    "features": (
        Question("Each feature has an owner, a meaning and a limit of age", (data.find_descriptions,)),
        Question("What the champion takes has not changed its meaning", (data.find_definitions,)),
        Question("Served values equal those made again offline", (monitoring.find_skew,)),
        Question("Features that are too old raise an alert", (alerted("FeaturesOld"),)),
    ),
    "serving": (
        Question("The champion answers", (find_serving,)),
        Question("There is a way back", (infrastructure.find_way_back, deployed("rollback"))),
        Question("Answers are kept before they leave", (infrastructure.find_answer,)),
        Question("What fails raises an alert", (alerted("ServiceDown", "ErrorRateHigh", "JournalFailing"),)),
        Question("Answers are counted", (counted("perennial_answers_total", positive=True),)),
    ),
    "monitoring": (
        Question("Every monitor that a promotion needs is live", (find_monitors,)),
        Question("Drift and quality raise alerts", (alerted("InputsDrifted", "QualityLow"),)),
        Question("What was served was judged", (monitoring.find_verdict,)),
        Question("Odd data raises an alert", (alerted("DataOdd", "DataStopped"),)),
    ),
    "feedback": (
        Question("Outcomes find their answers", (find_labels,)),
        Question("A verdict starts a training by itself", (automation("retrain on"),)),
        Question("A training ran", (ran("retrain"),)),
        Question("The gate passed what serves", (tagged("perennial.gate", "passed"), kept("gate.md"))),
    ),
}
