// Publishes market events with kafkajs and avsc:
// node node_producer.js BROKERS TOPIC market_event.avsc events.ndjson
const fs = require("node:fs");
const avro = require("avsc");
const { Kafka, Partitioners, CompressionTypes } = require("kafkajs");

const SCHEMA_ID = 1_073_741_824; // of market_event in schemas/avro/ids.json
const SCALE = 9;
const DECIMALS = ["bid", "ask", "price", "open", "high", "low", "close", "volume"];
const MESSAGES_AT_ONCE = 1000;

const [brokers, topic, schemaFile, eventsFile] = process.argv.slice(2);
const type = avro.Type.forSchema(JSON.parse(fs.readFileSync(schemaFile)));

/** The two's complement of the unscaled value, most significant byte first. */
function decimal(text) {
  const [, sign, whole, fraction = ""] = text.match(/^(-?)(\d+)(?:\.(\d{1,9}))?$/);
  const unscaled = BigInt(sign + whole + fraction.padEnd(SCALE, "0"));
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64BE(unscaled);
  return bytes;
}

function encode(event) {
  const record = { ...event };
  for (const name of DECIMALS) if (name in event) record[name] = decimal(event[name]);
  const header = Buffer.alloc(5); // the magic byte 0 is there
  header.writeInt32BE(SCHEMA_ID, 1);
  return Buffer.concat([header, type.toBuffer(record)]);
}

async function main() {
  const kafka = new Kafka({ brokers: brokers.split(",") });
  const producer = kafka.producer({
    createPartitioner: Partitioners.DefaultPartitioner, // Kafka's murmur2; LegacyPartitioner is not
    idempotent: true,
    maxInFlightRequests: 1, // kafkajs promises no order with more
  });
  await producer.connect();
  const lines = fs.readFileSync(eventsFile, "utf8").trim().split("\n");
  const messages = lines.map((line) => JSON.parse(line)).map((event) => ({
    key: event.instrument,
    value: encode(event),
    timestamp: String(Math.floor(event.event_time / 1000)),
  }));
  for (let k = 0; k < messages.length; k += MESSAGES_AT_ONCE) {
    // throws what the broker refused
    await producer.send({ topic, compression: CompressionTypes.GZIP, messages: messages.slice(k, k + MESSAGES_AT_ONCE) });
  }
  await producer.disconnect();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
