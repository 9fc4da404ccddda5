"""A million simulated patients with 8 visits, from Parquet to Parquet; one patient, whole process.

    python benchmarks/forecast_scale.py [--patients 1000000]

Parquet is read, every row validated, both codes forecast with three intervals at the horizons, the
risk of each named line computed, all written as Parquet: `medimind forecast predict` in a process
of its own. Memory is that process's peak. Then one patient is asked for five times, start of the
interpreter included, and it is checked that no torch was imported.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

from medimind.config.forecast_models import ForecastConfig
from medimind.forecasting.fit import fit_forecaster
from medimind.forecasting.simulate import simulate_cohort, simulate_parts
from medimind.forecasting.store import save_forecaster
from medimind.tracking.provenance import collect

RESULT = Path(__file__).parent / "results" / "forecast_scale.json"


def prepare(folder: Path, num_patients: int) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / f"cohort-{num_patients}.parquet"
    if path.exists():
        return path
    writer = None
    for records in simulate_parts(num_patients, part=50_000, seed=7):
        table = pa.table(
            {
                "patient": records.patient,
                "time": records.time_days,
                "code": records.code,
                "value": records.value,
                "unit": records.unit,
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()
    return path


def timed(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "medimind.cli.main", *arguments], check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--patients", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path("runs/forecast-scale"))
    parser.add_argument("--only-prepare", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path = prepare(arguments.folder, arguments.patients)
    model = arguments.folder / "model"
    if not model.exists():
        known = simulate_cohort(2000, seed=1).records
        save_forecaster(fit_forecaster(known, ForecastConfig(horizons_days=(182, 365))), model)
    one = arguments.folder / "one.csv"
    one.write_text(
        "patient,time,code,value,unit\n"
        + "".join(f"A,{180 * i},98979-8,{80 - 3 * i},mL/min/{{1.73_m2}}\n" for i in range(6)),
        encoding="utf-8",
    )
    if arguments.only_prepare:
        return
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    single = [timed(["forecast", "predict", str(model), str(one), "--patient", "A"])
              for _ in range(5)]  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    single_cpu = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / len(single)
    code = (
        "import sys; from medimind.cli.main import main; "
        f"main(['forecast', 'predict', {str(model)!r}, {str(one)!r}, '--patient', 'A']); "
        "sys.exit('torch' in sys.modules)"
    )
    needs_torch = subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode
    out = arguments.folder / "out"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = timed(
        ["forecast", "predict", str(model), str(path), "--out", str(out), "--max-documents", "0"]
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Wall time grows with whatever else the machine does; processor time hardly.
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    report = {
        "command": f"python benchmarks/forecast_scale.py {' '.join(sys.argv[1:])}".strip(),
        "date": date.today().isoformat(),
        "provenance": collect(seed=7),
        "patients": arguments.patients,
        "rows": arguments.patients * 16,
        "seconds": seconds,
        "patients_per_second": arguments.patients / seconds,
        "cpu_seconds": cpu,
        "load_average": os.getloadavg()[0],
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20,
        "validation": json.loads((out / "validation.json").read_text()),
        "one_patient_seconds": single,
        "one_patient_cpu_seconds": single_cpu,
        "one_patient_imports_torch": bool(needs_torch),
    }
    RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print({k: v for k, v in report.items() if k != "provenance"})


if __name__ == "__main__":
    main()
