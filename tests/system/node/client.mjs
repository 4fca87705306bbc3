// What a JavaScript user does first. Prints one JSON object for the test to read.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "unused", maxRetries: 0 });

// Unless told otherwise the client asks for base64.
const texts = { model: "all-MiniLM-L6-v2", input: JSON.parse(process.argv[3]) };
const unsaid = await client.embeddings.create(texts);
const floats = await client.embeddings.create({ ...texts, encoding_format: "float" });
const vectors = [unsaid, floats].map((answer) => answer.data.map((each) => each.embedding));

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

console.log(JSON.stringify({ vectors, text, finish, code }));
