// graphile-worker on PostgreSQL: jobs added in bulk, then worked off; default settings and its own fast preset.
//   npm install graphile-worker pg; BENCH_PG_URL=postgres://… node benches/peers/graphile.mjs
import { Logger, makeWorkerUtils, run } from "graphile-worker";

const connectionString = process.env.BENCH_PG_URL.split("?")[0];
const JOBS = 20000;
const rounds = Number(process.env.ROUNDS ?? 3);
const logger = new Logger(() => () => {});
const utils = await makeWorkerUtils({ connectionString, logger });
await utils.migrate();

async function measure(word, preset) {
  const rates = [];
  for (let round = 0; round < rounds; round++) {
    await utils.withPgClient((pg) => pg.query("delete from graphile_worker._private_jobs"));
    await utils.withPgClient((pg) =>
      pg.query("select graphile_worker.add_jobs(array(select row('mail', '{\"a\":1}'::json, null, null, null, null, null, null)::graphile_worker.job_spec from generate_series(1, $1)))", [JOBS]));
    let left = JOBS, done;
    const finished = new Promise((resolve) => (done = resolve));
    const began = process.hrtime.bigint();
    const runner = await run({ connectionString, logger, preset, noHandleSignals: true,
      taskList: { mail: () => { if (--left === 0) done(); } } });
    await finished;
    rates.push(JOBS / (Number(process.hrtime.bigint() - began) / 1e9));
    await runner.stop();
  }
  rates.sort((a, b) => a - b);
  console.log(`${word}: ${Math.round(rates[rates.length >> 1])} jobs/s  [${rates.map(Math.round).join(" ")}]`);
}

async function latency() {
  const waits = []; let arrive;
  const runner = await run({ connectionString, logger, concurrency: 24, noHandleSignals: true,
    taskList: { ping: () => arrive() } });
  for (let n = 0; n < 500; n++) {
    const arrived = new Promise((resolve) => (arrive = resolve));
    const began = process.hrtime.bigint();
    await utils.addJob("ping", {});
    await arrived;
    waits.push(Number(process.hrtime.bigint() - began) / 1e3);
  }
  await runner.stop();
  waits.sort((a, b) => a - b);
  console.log(`graphile-worker: add to run, median ${Math.round(waits[250])} µs, p99 ${Math.round(waits[495])} µs`);
}

await measure("graphile-worker, concurrency 24", { worker: { concurrentJobs: 24 } });
await measure("graphile-worker, concurrency 24, localQueue 500", { worker: { concurrentJobs: 24,
  localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } });
await latency();
await utils.release();
