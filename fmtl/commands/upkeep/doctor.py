"""``doctor``: runs that look alive and are not."""

import time

from fmtl.settings.schema import DoctorSettings
from fmtl.tracking import doctor as clinic
from fmtl.tracking import store
from fmtl.tracking.doctor import Patient

STATES = {
    "alive": "lives",
    "dead": "its process is gone",
    "silent": "not heard of for long",
    "unknown": "says nothing about its process",
}


def doctor(settings: DoctorSettings) -> None:
    """Run the whole command; prints a line for each run that looks alive, and what was done."""
    patients = clinic.find()
    for patient in patients:
        print(_line(patient))
    ill = [patient for patient in patients if patient.state in ("dead", "silent")]
    mended = sum(clinic.mend(patient) for patient in ill) if settings.repair else 0
    alive = sum(patient.state == "alive" for patient in patients)
    told = f"{store.address()}: {len(patients)} runs look alive: {alive} are, {len(ill)} are not"
    if unknown := len(patients) - alive - len(ill):
        told += f", {unknown} say nothing about their process (begun by 'mlflow run' or another program; left alone)"
    print(told)
    if ill:
        print(f"{mended} repaired" if settings.repair else "fmtl doctor --repair true records their end")


def _line(patient: Patient) -> str:
    lease = patient.lease
    since = f", since {time.strftime('%Y-%m-%d %H:%M', time.localtime(lease.since / 1000))}" if lease else ""
    return f"{patient.run_id} {patient.name} ({patient.kind or 'no kind'}): {STATES[patient.state]}" + (
        f" ({lease}{since})" if lease else ""
    )
