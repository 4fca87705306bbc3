// What a JavaScript user does first. Prints one JSON object for the test to read.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "unused", maxRetries: 0 });

const embeddings = await client.embeddings.create({ model: "all-MiniLM-L6-v2", input: "Hello" });

let text = "";
let finish = null;
const stream = await client.chat.completions.create({
  model: "fusion-toy",
  messages: [{ role: "user", content: "Hello" }],
  temperature: 0,
  stream: true,
});
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta?.content ?? "";
  finish = chunk.choices[0]?.finish_reason ?? finish;
}

let code = null;
try {
  await client.chat.completions.create({ model: "nobody", messages: [{ role: "user", content: "Hello" }] });
} catch (error) {
  code = error.code;
}

const vector = embeddings.data[0].embedding;
const norm = Math.hypot(...vector);
console.log(JSON.stringify({ length: vector.length, norm, text, finish, code }));
