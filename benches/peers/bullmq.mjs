// BullMQ on Redis: jobs added in bulk, then worked off.
//   npm install bullmq ioredis; REDIS_PORT=6379 node benches/peers/bullmq.mjs
import IORedis from "ioredis";
import { Queue, Worker } from "bullmq";

const port = Number(process.env.REDIS_PORT ?? 6379);
const connection = new IORedis(port, "127.0.0.1", { maxRetriesPerRequest: null });
const JOBS = 20000;
const rounds = Number(process.env.ROUNDS ?? 3);
const rates = [];
for (let round = 0; round < rounds; round++) {
  const name = `bench-${process.pid}-${round}`;
  const queue = new Queue(name, { connection });
  for (let n = 0; n < JOBS; n += 1000) {
    await queue.addBulk(Array.from({ length: 1000 }, () => ({ name: "mail", data: { a: 1 }, opts: { removeOnComplete: true } })));
  }
  let left = JOBS, done;
  const finished = new Promise((resolve) => (done = resolve));
  const began = process.hrtime.bigint();
  const worker = new Worker(name, async () => { if (--left === 0) done(); }, { connection, concurrency: 100 });
  await finished;
  rates.push(JOBS / (Number(process.hrtime.bigint() - began) / 1e9));
  await worker.close();
  await queue.obliterate({ force: true });
  await queue.close();
}
rates.sort((a, b) => a - b);
console.log(`BullMQ, concurrency 100: ${Math.round(rates[rates.length >> 1])} jobs/s  [${rates.map(Math.round).join(" ")}]`);
process.exit(0);
