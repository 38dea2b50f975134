import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.ByteArrayOutputStream;
import java.io.DataOutputStream;
import java.io.File;
import java.math.BigDecimal;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.Future;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.EncoderFactory;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Publishes market events: java JavaProducer BROKERS TOPIC market_event.avsc events.ndjson */
public final class JavaProducer {
    private static final int SCHEMA_ID = 1_073_741_824; // of market_event in schemas/avro/ids.json
    private static final int SCALE = 9;

    public static void main(String[] args) throws Exception {
        Schema schema = new Schema.Parser().parse(new File(args[2]));
        Properties config = new Properties();
        config.put("bootstrap.servers", args[0]);
        config.put("enable.idempotence", "true"); // and the default partitioner is Kafka's murmur2
        config.put("compression.type", "gzip");
        ObjectMapper json = new ObjectMapper();
        List<Future<RecordMetadata>> answers = new ArrayList<>();
        try (var producer = new KafkaProducer<>(config, new StringSerializer(), new ByteArraySerializer())) {
            for (String line : Files.readAllLines(Path.of(args[3]))) {
                GenericRecord event = event(schema, json.readTree(line));
                Long timeMs = (Long) event.get("event_time") / 1000;
                String key = event.get("instrument").toString();
                answers.add(producer.send(new ProducerRecord<>(args[1], null, timeMs, key, encode(schema, event))));
            }
            for (Future<RecordMetadata> answer : answers) {
                answer.get(); // throws what the broker refused
            }
        }
    }

    private static GenericRecord event(Schema schema, JsonNode json) {
        GenericRecord event = new GenericData.Record(schema);
        for (Schema.Field field : schema.getFields()) {
            JsonNode value = json.get(field.name());
            if (value != null) {
                event.put(field.name(), switch (field.name()) {
                    case "kind" -> new GenericData.EnumSymbol(field.schema(), value.asText());
                    case "event_time", "sequence" -> value.asLong();
                    case "duration_s" -> value.asInt();
                    case "instrument", "source", "model_id" -> value.asText();
                    default -> decimal(value.asText());
                });
            }
        }
        return event;
    }

    /** The two's complement of the unscaled value, most significant byte first. */
    private static ByteBuffer decimal(String text) {
        return ByteBuffer.wrap(new BigDecimal(text).setScale(SCALE).unscaledValue().toByteArray());
    }

    private static byte[] encode(Schema schema, GenericRecord event) throws Exception {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        DataOutputStream header = new DataOutputStream(bytes);
        header.writeByte(0);
        header.writeInt(SCHEMA_ID);
        BinaryEncoder body = EncoderFactory.get().binaryEncoder(bytes, null);
        new GenericDatumWriter<GenericRecord>(schema).write(event, body);
        body.flush();
        return bytes.toByteArray();
    }
}
